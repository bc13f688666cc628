"""Says what a model is from its config.json alone, before any rank starts: a mixture of experts or not.

It runs in a child process of the gateway and imports neither vllm nor torch. It counts experts by vLLM's own rule
(`get_num_experts` in vllm/transformers_utils/model_arch_config_convertor.py), for the ranks' answer must agree.
"""

import threading
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from engines.contract.experts import EXPERT_FIELDS
from engines.tiny_model.build import build_named
from engines.tiny_model.shapes import BUILT_IN

HUB_TIMEOUT_S = 18.0
TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "text_encoder", "decoder", "generator")


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway must know of a model. `model` is what the ranks load: a folder, or a hub name."""

    model: str
    is_moe: bool
    num_experts: int
    architecture: str
    max_position_embeddings: int | None


class ModelUnusable(Exception):
    """The model cannot be used as named. The message is one sentence for the operator, with the remedy."""


def inspect(model: str, revision: str | None = None) -> ModelFacts:
    """Reads the model's config.json, in a folder or on the hub; a built-in model is built first.

    Answers within about HUB_TIMEOUT_S when the hub cannot be reached. Raises ModelUnusable.
    """
    if model in BUILT_IN:
        model = str(_built(model))
    folder = Path(model).expanduser()
    try:
        is_there = folder.exists()
    except OSError as error:  # of an unreadable folder above it, or of a name that no file can have
        raise ModelUnusable(f"the model {model[:200]} cannot be looked at: {error.strerror}") from error
    if is_there or _looks_like_path(model):
        return _facts(str(folder), _local_config(folder))
    return _facts(model, _hub_config(model, revision))


def _built(name: str) -> Path:
    try:
        return build_named(name)
    except (ImportError, OSError) as error:
        raise ModelUnusable(f"the built-in model {name} could not be built: {error}") from error


def _looks_like_path(model: str) -> bool:
    return model.startswith(("/", ".", "~")) or model.count("/") > 1


# ---------------------------------------------------------------- facts


def _facts(model: str, config: dict[str, Any]) -> ModelFacts:  # Any: JSON
    text = _text_config(config)
    experts = _count_experts(text)
    architectures = config.get("architectures") or [config.get("model_type") or "unknown"]
    positions = text.get("max_position_embeddings")
    return ModelFacts(
        model=model,
        is_moe=experts > 0,
        num_experts=experts,
        architecture=str(architectures[0]),
        max_position_embeddings=positions if isinstance(positions, int) else None,
    )


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part that describes the language model: multimodal configurations nest it, omni models twice."""
    if isinstance(thinker := config.get("thinker_config"), dict):
        config = thinker
    nested = (config.get(name) for name in TEXT_CONFIGS)
    return next((part for part in nested if isinstance(part, dict)), config)


def _count_experts(text: dict[str, Any]) -> int:
    # The first field that is there decides, even with null: dense models carry the field, too.
    value = next((text[name] for name in EXPERT_FIELDS if name in text), 0)
    if isinstance(value, list):
        value = value[0] if value else 0
    if not value:
        value = max((_experts_of_block(block) for block in text.get("block_configs") or []), default=0)
    return value if isinstance(value, int) else 0


def _experts_of_block(block: Any) -> int:  # Any: JSON
    is_moe = isinstance(block, dict) and block.get("block_type") == "moe"
    return int(block.get("n_routed_experts") or 0) if is_moe else 0


def _from_mistral(params: dict[str, Any]) -> dict[str, Any]:
    """Mistral's params.json in the words of config.json, as far as facts need them."""
    moe = params.get("moe") or {}
    if not moe and params.get("qk_nope_head_dim"):
        moe = {"num_experts": 1}  # vLLM runs latent attention without experts as one expert
    architecture = "MixtralForCausalLM" if moe else "MistralForCausalLM"
    positions = params.get("max_position_embeddings") or params.get("max_seq_len")
    return {
        "architectures": [architecture],
        "num_experts": moe.get("num_experts", 0),
        "max_position_embeddings": positions,
    }


# ---------------------------------------------------------------- a folder


def _local_config(folder: Path) -> dict[str, Any]:
    if not folder.exists():
        raise ModelUnusable(f"the model folder {folder} does not exist: check the spelling, and that it is mounted")
    if not folder.is_dir():
        raise ModelUnusable(f"{folder} is a file: name the folder that holds config.json, or a hub name")
    is_mistral = (folder / "params.json").exists() and any(folder.glob("consolidated*.safetensors"))
    if is_mistral or not (folder / "config.json").exists():
        if (folder / "params.json").exists():
            return _from_mistral(_read(folder / "params.json"))
        raise ModelUnusable(
            f"the folder {folder} has no config.json: name a folder that holds a whole model{_near(folder)}"
        )
    return _read(folder / "config.json")


def _near(folder: Path) -> str:
    if (folder / "adapter_config.json").exists():
        return " (this one holds a LoRA adapter: name its base model)"
    below = sorted(path.parent for path in folder.glob("*/config.json"))
    return f", such as {below[0]}" if below else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        config = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise ModelUnusable(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    except msgspec.DecodeError as error:
        raise ModelUnusable(f"{path} is not valid JSON ({error}): copy or download the model again") from error
    if not isinstance(config, dict):
        raise ModelUnusable(f"{path} does not hold a JSON object: copy or download the model again")
    return config


# ---------------------------------------------------------------- the hub


def _hub_config(name: str, revision: str | None) -> dict[str, Any]:
    """The configuration from the hub or its cache, within a deadline: the library's own holds per address and attempt.

    A thread that outlasts the deadline is a daemon, and this process ends soon.
    """
    answer: list[dict[str, Any] | ModelUnusable] = []

    def ask() -> None:
        try:
            answer.append(_ask_hub(name, revision))
        except ModelUnusable as error:
            answer.append(error)

    thread = threading.Thread(target=ask, name="ask-hub", daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT_S)
    if not answer:
        cached = _cached(name, "config.json", revision)
        return _read(cached) if cached else _raise(_unreachable(name, f"no answer in {HUB_TIMEOUT_S:.0f} s"))
    return _raise(answer[0]) if isinstance(answer[0], ModelUnusable) else answer[0]


def _ask_hub(name: str, revision: str | None) -> dict[str, Any]:
    if path := _hub_file(name, "config.json", revision):
        return _read(path)
    if path := _hub_file(name, "params.json", revision):
        return _from_mistral(_read(path))
    raise ModelUnusable(f"the hub's repository {name} has no config.json: name one that holds a model for vLLM")


def _hub_file(name: str, file: str, revision: str | None) -> Path | None:
    """The file in the hub's cache, fetched if need be; None when the repository has no such file."""
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise ModelUnusable(f"{name} is no folder, and huggingface_hub is not installed: install vllm") from error
    try:
        # This fails at once where a download would go on trying.
        hub.get_hf_file_metadata(hub.hf_hub_url(name, file, revision=revision))
        return Path(hub.hf_hub_download(name, file, revision=revision))
    except hub.errors.RemoteEntryNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001  the door: the hub's library raises its transport's errors, too
        return _cached(name, file, revision) or _raise(_hub_problem(name, revision, error))


def _cached(name: str, file: str, revision: str | None) -> Path | None:
    import huggingface_hub as hub

    try:
        path = hub.try_to_load_from_cache(name, file, revision=revision)
    except hub.errors.HFValidationError:
        return None
    return Path(path) if isinstance(path, str) else None


def _hub_problem(name: str, revision: str | None, error: Exception) -> ModelUnusable:
    from huggingface_hub import constants, errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.HFValidationError):
        message = f"{name!r} is neither a folder nor a hub name such as owner/model: check the spelling"
    elif isinstance(error, errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/{name}"
        message = f"{name} is gated: accept its licence at {page} and set HF_TOKEN to a token of that account"
    elif isinstance(error, errors.RepositoryNotFoundError):
        message = f"there is no folder and no hub repository {name}: check the spelling; if it is private, set HF_TOKEN"
    elif isinstance(error, errors.RevisionNotFoundError):
        message = f"the hub's repository {name} has no revision {revision!r}: check --revision"
    elif isinstance(error, errors.OfflineModeIsEnabled):
        message = f"HF_HUB_OFFLINE is set and {name} is not in the cache {constants.HF_HUB_CACHE}: unset it to download"
    elif status in (401, 403):
        message = f"the hub refuses access to {name} ({status}): check that HF_TOKEN is valid and may read it"
    else:
        return _unreachable(name, f"status {status}" if status else f"{type(error).__name__}: {error}")
    return ModelUnusable(message)


def _unreachable(name: str, reason: str) -> ModelUnusable:
    from huggingface_hub import constants

    return ModelUnusable(
        f"{name} is not in the cache {constants.HF_HUB_CACHE} and {constants.ENDPOINT} could not be asked ({reason}): "
        "check the network or HF_ENDPOINT, or name a folder"
    )


def _raise(error: ModelUnusable) -> NoReturn:
    raise error
