"""Every setting: its type, default, meaning and spellings, declared once.

The flags of `phalanx serve` and the PHALANX_* variables are both read off the classes below, so they cannot
disagree. A class's docstring is its heading in --help. `app/settings/loading.py` reads them, and
`app/settings/checks.py` finds what contradicts itself or the machine.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from app.errors import FatalError
from app.settings.field_types import (
    Arguments,
    Count,
    CountOrAuto,
    JsonObject,
    Names,
    NotNegative,
    OtlpEndpoint,
    Part,
    Positive,
    Seconds,
    Size,
    Text,
    home,
    lower,
)
from app.settings.gpu_sharing import GpuSharingSettings
from app.settings.journal import JournalSettings
from app.settings.nodes import NodeSettings
from app.settings.ray import RaySettings
from app.settings.section import PREFIX, Section, setting
from app.settings.spooling import SpoolSettings
from app.settings.tuning import TuningSettings
from engines.contract.spec import EngineKind, ExecutorKind

BUILT_IN_MODEL = "phalanx-tiny"
SIMULATED_MODEL = "phalanx-simulated"


class SettingsError(FatalError):
    """The operator must change a flag, a variable or the machine. One line per problem."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=2)


def flag(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def label(name: str) -> str:
    """A setting as messages call it."""
    return f"{flag(name)} ({variable(name)})"


class ModelSettings(Section):
    """Model"""

    model: Annotated[Text | None, BeforeValidator(home)] = setting(
        None, f"Hub name or folder. Without one, a tiny built-in model, {BUILT_IN_MODEL}."
    )
    require_model: bool = setting(False, "Refuse to start without a model instead of serving the built-in one.")
    served_model_name: Text | None = setting(None, "The model's id in requests and answers, if not its own name.")


class RankSettings(Section):
    """Ranks"""

    engine: Annotated[EngineKind, BeforeValidator(lower)] = setting(
        "vllm", "vllm, or simulated: an engine without a model, for load and chaos."
    )
    device: Annotated[Literal["auto", "cuda", "cpu"], BeforeValidator(lower)] = setting(
        "auto", "auto takes NVIDIA GPUs where there are any."
    )
    dp_size: Positive | None = setting(
        None, "Data-parallel ranks. Default: as many as there are GPUs for; 2 on a CPU.", "--data-parallel-size", "-dp"
    )
    tp_size: Positive = setting(1, "Tensor-parallel workers of each rank.", "--tensor-parallel-size", "-tp")
    executor: Annotated[ExecutorKind, BeforeValidator(lower)] = setting(
        "auto", "Who starts a rank's tensor-parallel workers: auto is vLLM, external_launcher is torchrun."
    )
    expert_parallel: bool = setting(
        True, "Spread a mixture-of-experts model's experts over all ranks.", "--enable-expert-parallel", "-ep"
    )
    cpu_kv_cache_gib: Positive = setting(1, "KV cache of a rank on a CPU, in GiB. VLLM_CPU_KVCACHE_SPACE counts too.")
    engine_args: JsonObject = setting({}, "JSON object of more engine arguments, by the engine's own names.")
    extra_args: Arguments = setting([], "The engine's own flags, checked by the engine: what stands after --.")


class EngineSettings(Section):
    """Engine: handed to vLLM under these names when set"""

    max_model_len: CountOrAuto | None = setting(None, "Tokens of prompt and output together, such as 8k, or auto.")
    dtype: Text | None = setting(None, "Data type of weights and activations. Default: the model's; float32 on a CPU.")
    load_format: Text | None = setting(None, "How weights are stored; dummy makes them up.")
    enforce_eager: bool | None = setting(None, "Run without CUDA graphs: quicker to start, slower to serve.")
    trust_remote_code: bool | None = setting(None, "Run code that comes with the model.")
    gpu_memory_utilization: float | None = setting(None, "Share of GPU memory for the engine.", gt=0, le=1)
    max_num_seqs: Count | None = setting(None, "Sequences that a rank runs at once.")
    max_num_batched_tokens: Count | None = setting(None, "Tokens of one step of a rank, such as 16k.")
    quantization: Text | None = setting(None, "Quantization method, if the model does not say.", "-q")
    kv_cache_dtype: Text | None = setting(None, "Data type of the KV cache.")
    tokenizer: Text | None = setting(None, "Hub name or folder of another tokenizer.")
    revision: Text | None = setting(None, "Branch, tag or commit of the model on the hub.")
    enable_prefix_caching: bool | None = setting(None, "Share the KV cache of equal beginnings of prompts.")
    seed: NotNegative | None = setting(None, "Seed of the engine.")


class ServerSettings(Section):
    """HTTP"""

    host: Text = setting("127.0.0.1", "Address to listen on; 0.0.0.0 is all of this machine's.")
    port: int = setting(8000, "Port to listen on; 0 is any free one.", ge=0, le=65535)
    allowed_hosts: Names = setting([], "More names, comma-separated, that a Host header may carry.")
    api_keys_file: Annotated[Path | None, BeforeValidator(home)] = setting(
        None, "API keys, as `phalanx api-keys` makes them. Without them, everybody who reaches the address is let in."
    )
    insecure: bool = setting(False, "Serve without API keys on an address that other machines reach.")
    keepalive_s: Seconds = setting(5.0, "Between the spaces, or progress lines, of an answer that waits.")
    max_connections: Count = setting(10_000, "Connections at once; beyond it they are answered 503.")
    head_timeout_s: Seconds = setting(20.0, "For the head of a request to come.")
    body_timeout_s: Seconds = setting(30.0, "For the next part of a body to come.")
    min_body_rate: Size = setting("1KiB", "Bytes a second that a body must come with on average.")
    send_timeout_s: Seconds = setting(60.0, "For a client to take the next part of an answer, at most 256 KiB.")


class WorkSettings(Section):
    """Work and its limits"""

    dispatch: Annotated[Literal["round_robin", "least_loaded", "prefix"], BeforeValidator(lower)] = setting(
        "prefix", "How items are spread over ranks with room. prefix: in turn, but what begins alike goes to one."
    )
    prefetch: NotNegative | None = setting(
        None, "Sequences that a rank holds beyond max_num_seqs. Default: as many as lately ended at once."
    )
    online_share: Part = setting(
        0.75, "Share of a rank's sequences that batches leave to requests of OpenAI's API while there are any."
    )
    waves: bool = setting(False, "Refill the ranks of a lock-step group together; what that gains was simulated only.")
    fairness_quantum_tokens: Count = setting(4096, "Tokens of one API key, and of one batch, before the next's turn.")
    default_max_tokens: Count = setting(1024, "Output tokens of an item that names no max_tokens.")
    max_batch_items: Count = setting(100_000, "Items in one request, unless its body is NDJSON.")
    max_body_bytes: Size = setting("128MiB", "Bytes of one request.")
    max_held_bytes: Size = setting(
        "4GiB", "Bytes of bodies and results held at once; beyond it requests get 503. A body needs twice its size."
    )
    stream_window_bytes: Size = setting(
        "4MiB", "Bytes of a stream's results that its client has yet to read; beyond it the batch is held back."
    )
    max_prompt_bytes: Size = setting("4MiB", "Bytes of one prompt.")
    max_waiting_items: Count = setting(500_000, "Items in the backlog; beyond it requests get 429.")
    max_waiting_tokens: Count = setting(2_000_000_000, "Tokens in the backlog; beyond it requests get 429.")
    max_n: Count = setting(128, "Outputs of one item (n).")
    max_stop_strings: Count = setting(64, "Stop strings of one item.")
    max_string_length: Count = setting(4096, "Characters of a stop string, or of all bad words together.")
    max_structure_length: Count = setting("64K", "Characters of a JSON schema, regex or grammar.")
    structure_cpu_s: Seconds = setting(
        5.0, "CPU time that compiling one of these may take; keep it well below a quarter of --stall-timeout-s."
    )
    max_list_length: Count = setting(4096, "Entries of stop_token_ids, or of a structure's choice.")


class TimeSettings(Section):
    """Times, in seconds or such as 90s, 5m, 24h"""

    default_timeout_s: Seconds | None = setting(None, "For a batch that names no timeout_s.")
    max_timeout_s: Seconds = setting("24h", "The longest timeout_s that a batch may name.")
    start_timeout_s: Seconds = setting("30m", "For a rank to become ready.")
    drain_timeout_s: Seconds = setting(30.0, "For running items to finish at shutdown.")
    stop_timeout_s: Seconds = setting(20.0, "For a rank to stop before it is killed.")


class RecoverySettings(Section):
    """Recovery of ranks that die, stall or cannot start"""

    stall_timeout_s: Seconds = setting(
        "2m", "Without a step while it holds work, a group is stalled; 10 times its longest step if that is longer."
    )
    restart_backoff_s: Seconds = setting(
        1.0, "Before the restart that follows a failure; doubled with each further one."
    )
    max_restart_backoff_s: Seconds = setting("1m", "The longest of these pauses.")
    breaker_failures: Count = setting(5, "Failures of a group within the window; one more and it stays down.")
    breaker_window_s: Seconds = setting("10m", "The window in which failures are counted.")
    trial_restarts: NotNegative = setting(200, "Restarts of a group in an hour, to find items that crash it.")


class LogSettings(Section):
    """Logs and traces"""

    log_format: Annotated[Literal["auto", "json", "console"], BeforeValidator(lower)] = setting(
        "auto", "auto is console on a terminal and json elsewhere."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = setting(
        "info", "debug, info, warning or error."
    )
    log_dir: Annotated[Path | None, BeforeValidator(home)] = setting(
        None, "Folder for the ranks' logs. Default: ~/.local/state/phalanx/logs/PORT."
    )
    log_prompts: bool = setting(False, "Let prompts, outputs and sampling parameters appear in logs, for debugging.")
    otlp_traces_endpoint: OtlpEndpoint | None = setting(
        None, "Send OpenTelemetry spans to this URL, by OTLP over HTTP. Without one there are none."
    )
    trace_items: NotNegative = setting(8, "Items of each batch that get spans of their own, spread over the batch.")


class Settings(
    LogSettings,
    RecoverySettings,
    TimeSettings,
    WorkSettings,
    SpoolSettings,
    JournalSettings,
    ServerSettings,
    TuningSettings,
    EngineSettings,
    RaySettings,
    NodeSettings,
    GpuSharingSettings,
    RankSettings,
    ModelSettings,
):
    """All settings. Build it with `load_settings`, or by keyword; the environment is never read behind your back."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @property
    def public_name(self) -> str:
        """The model's id in requests and answers."""
        unnamed = SIMULATED_MODEL if self.engine is EngineKind.SIMULATED else BUILT_IN_MODEL
        return self.served_model_name or self.model or unnamed

    @property
    def ranks_per_node(self) -> int | None:
        """How many ranks this machine has; None: as many as it has GPUs for."""
        return None if self.dp_size is None else self.dp_size // self.node_size

    @property
    def node_endpoint(self) -> str:
        """Where node 0 listens for the others."""
        host = f"[{self.master_addr}]" if ":" in self.master_addr else self.master_addr
        return f"tcp://{host}:{self.master_port}"

    def engine_arguments(self) -> dict[str, Any]:  # Any: the engine checks them
        """What was set for the engine, by the engine's own names."""
        named = {name: getattr(self, name) for name in EngineSettings.model_fields}
        return {name: value for name, value in named.items() if value is not None} | self.engine_args


SECTIONS: tuple[type[Section], ...] = (
    ModelSettings,
    RankSettings,
    GpuSharingSettings,
    NodeSettings,
    RaySettings,
    EngineSettings,
    TuningSettings,
    ServerSettings,
    JournalSettings,
    SpoolSettings,
    WorkSettings,
    TimeSettings,
    RecoverySettings,
    LogSettings,
)


def spellings(name: str) -> list[str]:
    """All flags of a setting, its own first."""
    extra = cast("dict[str, list[str]]", Settings.model_fields[name].json_schema_extra)
    return [flag(name), *extra["flags"]]
