"""The simulated engine's arguments: its latency model, its limits, and the faults that a prompt can bring about."""

import os
from enum import StrEnum
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from engines.contract.spec import RankSpec
from engines.rank.engine import EngineConfigError

Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[float, Meta(ge=0)]
Needle = Annotated[str, Meta(min_length=1)] | None


class Fault(StrEnum):
    """What a prompt can bring about, when its first step comes."""

    CRASH = "crash"
    CRASH_MIDSTREAM = "crash_midstream"  # later, and only of a prompt whose answer streams
    HANG = "hang"
    SLOW = "slow"
    CHOKE = "choke"


class SimulatedArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The engine's arguments. The `*_on` ones name a text; a prompt that contains it brings the fault about."""

    max_num_seqs: Positive = 256
    step_ms: NotNegative = 0.0
    seq_us: NotNegative = 0.0
    max_model_len: Annotated[int, Meta(ge=2)] = 8192
    kv_cache_tokens: Annotated[int, Meta(ge=0)] = 0  # 0: no limit
    is_moe: bool = False
    generates: bool = True  # false: it plays a pooling model, which answers exchanges for vectors alone
    start_s: NotNegative = 0.0  # how long loading takes
    block_loop_s: NotNegative = 0.0  # how much of it blocks the loop, as vLLM's loading does
    shared_memory_kib: Annotated[int, Meta(ge=0)] = 0  # to hold in /dev/shm, as vLLM's workers do
    fail_config: str | None = None  # refuse to start, with this message
    max_seqs_that_fit: Annotated[int, Meta(ge=0)] = 0  # with more it refuses to start, as out of memory; 0: any number
    crash_at_start: bool | list[int] = False  # die by SIGKILL while loading: every rank, or these
    crash_on: Needle = None  # die by SIGKILL
    crash_midstream_on: Needle = None  # the same, at the step after the third chunk of this exchange's stream
    hang_on: Needle = None  # make no further step
    slow_on: Needle = None  # steps take `slow_factor` times as long while the item runs
    choke_on: Needle = None  # report the engine's death
    slow_factor: Annotated[float, Meta(ge=1)] = 10.0
    prompts_file: str | None = None  # to append each prompt to, a line each time: what really ran, and how often

    def needles(self) -> list[tuple[Fault, bytes]]:
        """What to look for in a prompt, as it stands in JSON, and what it brings about."""
        texts = [(fault, getattr(self, f"{fault}_on")) for fault in Fault]
        return [(fault, msgspec.json.encode(text)[1:-1]) for fault, text in texts if text is not None]


def hold_shared_memory(spec: RankSpec, size_bytes: int) -> SharedMemory | None:
    """Shared memory named after the gateway's folder and this process, as vLLM's workers hold some. None for no bytes.

    Python's resource tracker starts with it.
    """
    name = f"{Path(spec.directory).parent.name}-{os.getpid()}"
    return SharedMemory(name, create=True, size=size_bytes) if size_bytes else None


def open_prompts_file(args: SimulatedArgs) -> int | None:
    """A descriptor that appends to it, as those of all other ranks do. Raises EngineConfigError. None for no file."""
    if args.prompts_file is None:
        return None
    try:
        return os.open(args.prompts_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EngineConfigError(f"prompts_file: {error}") from error


def read_args(spec: RankSpec) -> SimulatedArgs:
    """The arguments that the spec gives. Raises EngineConfigError, naming an unknown one."""
    if spec.extra_args:
        raise EngineConfigError(f"the simulated engine takes no flags, but was given {spec.extra_args[0]!r}")
    try:
        args = msgspec.convert(spec.engine_args, SimulatedArgs)
    except msgspec.ValidationError as error:
        known = ", ".join(SimulatedArgs.__struct_fields__)
        raise EngineConfigError(f"the simulated engine's arguments: {error}; it knows {known}") from error
    if args.fail_config is not None:
        raise EngineConfigError(args.fail_config)
    if 0 < args.max_seqs_that_fit < args.max_num_seqs:
        raise EngineConfigError(f"out of memory: {args.max_num_seqs} sequences do not fit")
    return args
