"""What `phalanx tune` has measured to be the fastest, as it stands in a file that `phalanx serve` reads.

A file holds for one model on one kind of machine, in one version of the engine and one division into ranks. Its engine
arguments are defaults: whatever the operator gives wins, and what does not go with that is left out.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

VERSION = 1
SUFFIX = ".tuned.json"
SEQUENCES, STEP_TOKENS, GRAPHS = "max_num_seqs", "max_num_batched_tokens", "compilation_config"
# Whoever sets one of these has decided which CUDA graphs there are; with speculation vLLM picks sizes that go with it.
DECIDING_GRAPHS = (
    "enforce_eager",
    GRAPHS,
    "cudagraph_capture_sizes",
    "max_cudagraph_capture_size",
    "speculative_config",
)
DECIDING_SEQUENCES = (SEQUENCES, *DECIDING_GRAPHS)
GRAPHS_UP_TO = 512  # tokens of a step, unless vLLM is told otherwise; a larger one runs eagerly
LONGEST_NAME = 80  # characters of a file's name that are there for people
Arguments = Mapping[str, Any]  # Any: the engine's argument values


class TunedFileError(Exception):
    """A file that cannot be used. The message says why, and does not name it."""


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What a measurement holds for. `held` is what the operator set of what is searched otherwise; `arguments` and
    `extra_args` are all others that the operator gave the engine."""

    model: str  # a hub name or an absolute path
    engine: str  # such as "vllm 0.32.0"
    machine: str  # the name of the GPUs, or of the CPU and how many cores there are
    dp_size: int
    tp_size: int
    executor: str
    arguments: dict[str, Any] = {}  # Any: as above
    extra_args: list[str] = []
    held: dict[str, Any] = {}  # last: it is no obstacle where it was empty

    @property
    def file_stem(self) -> str:
        """A file name's beginning, which no other site has."""
        words = f"{self.model.rsplit('/', 1)[-1]}-{self.machine}-dp{self.dp_size}-tp{self.tp_size}"
        digest = hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:10]
        return f"{re.sub(r'[^A-Za-z0-9._]+', '-', words)[:LONGEST_NAME].strip('-')}-{digest}"

    def difference(self, other: "Site") -> str | None:
        """The first thing that is not the same: there, and here."""
        for name in self.__struct_fields__:
            here, there = getattr(self, name), getattr(other, name)
            if here != there:
                return f"{name} was {_shown(there)} and is {_shown(here)}"
        return None


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """The fastest of what was measured. Without arguments it is what the service chooses by itself."""

    version: int = VERSION
    site: Site
    candidate: str  # in words
    arguments: dict[str, Any] = {}  # of the engine; Any: as above
    expert_parallel: bool | None = None  # None: as the service chooses
    ranks_per_gpu: int | None = None  # None: one, unless the operator says more
    tiles_folder: str | None = None  # files of fused-MoE tiles, for VLLM_TUNED_CONFIG_FOLDER
    workload: str  # in words
    measured_at: str  # ISO 8601, UTC
    tokens_per_s: float  # output tokens, the median
    baseline_tokens_per_s: float  # of what the service chooses by itself


def fitting(tuned: Arguments, given: Arguments) -> dict[str, Any]:  # Any: as above
    """Of tuned arguments, those that go with what the operator has given."""
    taken = {name: value for name, value in tuned.items() if name not in given}
    if any(name in given for name in DECIDING_SEQUENCES):
        taken = _without_sequences(taken)
    both = {**taken, **given}
    sequences, step_tokens = both.get(SEQUENCES), both.get(STEP_TOKENS)
    if isinstance(sequences, int) and isinstance(step_tokens, int) and step_tokens < sequences:
        # A step has a token of each sequence: vLLM would refuse to start.
        taken = {name: value for name, value in _without_sequences(taken).items() if name != STEP_TOKENS}
    return taken


def sequence_arguments(sequences: int, device: str, graph_tokens: int | None = None) -> dict[str, Any]:
    """The engine arguments for so many sequences, on a GPU with graphs for steps of so many tokens. Any: as above."""
    return {SEQUENCES: sequences} | (graph_arguments(sequences, graph_tokens) if device == "cuda" else {})


def graphs_up_to(sequences: int) -> int:
    """The most tokens of a step that have a graph, where nobody says.

    A step has a token of each sequence and the prompts of those that begin in it. If no graph is as large as both, it
    runs eagerly, and where lengths differ that is nearly every step.
    """
    return 2 * sequences


def graph_arguments(sequences: int, graph_tokens: int | None = None) -> dict[str, Any]:  # Any: as above
    """The engine arguments for graphs of so many tokens; none where vLLM makes those by itself.

    vLLM's own sizes lie 8 and 16 apart however many there are, and each takes a third of a second of the start: here a
    step is padded by an eighth at most.
    """
    most = graphs_up_to(sequences) if graph_tokens is None else graph_tokens
    if graph_tokens is None and most <= GRAPHS_UP_TO:
        return {}
    sizes, octave = [1, 2, 4, *range(8, 128, 8)], 128
    while octave < most:
        sizes += range(octave, 2 * octave, octave // 8)
        octave *= 2
    return {GRAPHS: {"cudagraph_capture_sizes": [*(size for size in sizes if size < most), most]}}


def read_tuned(path: Path) -> Tuned:
    """What a file holds. Raises TunedFileError."""
    try:
        data = path.read_bytes()
        version = msgspec.json.decode(data, type=_Version).version
        if version != VERSION:
            raise TunedFileError(f"it is of format {version}, and this version of Phalanx reads {VERSION}")
        return msgspec.json.decode(data, type=Tuned)
    except OSError as error:
        raise TunedFileError(f"it cannot be read ({error.strerror})") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TunedFileError(f"it is broken ({error})") from error


def tuned_file(folder: Path, site: Site) -> Path:
    """Where the result for a site is kept."""
    return folder / f"{site.file_stem}{SUFFIX}"


def site_model(model: str) -> str:
    """A model as sites name it: a folder by its absolute path, so that it is the same from everywhere."""
    return os.path.abspath(model) if os.path.isdir(model) else model  # noqa: PTH100, PTH112  a hub name is no path


class _Version(msgspec.Struct):
    version: int


def _without_sequences(arguments: Arguments) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in DECIDING_SEQUENCES}


def _shown(value: object) -> str:
    return msgspec.json.encode(value).decode()
