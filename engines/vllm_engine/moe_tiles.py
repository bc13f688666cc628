"""Tiles of vLLM's fused-MoE kernel: which shape of blocks is the fastest on this GPU, for how many tokens.

vLLM ships files with such tiles for some models on some GPUs, looks for others in the folder that
VLLM_TUNED_CONFIG_FOLDER names, and says which one it misses. Here a small set of tiles is measured and that file is
written. It is for weights that are not quantized.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

Tile = dict[str, int]  # by the kernel's own names
TimeOf = Callable[[Tile | None, int], float | None]  # of a tile, or of vLLM's own choice, in seconds; None: impossible

TOKENS = (1, 16, 64, 128, 256, 512, 1024, 2048, 4096, 16384)  # vLLM takes the entry that is the nearest
MIN_GAIN = 0.03  # of an entry over vLLM's own choice: less may be noise
FEW_TOKENS, MANY_TOKENS = 64, 512
NAME = re.compile(r"E=(\d+),N=(\d+),device_name=[^,/]+\.json")  # without dtype and block_shape: not quantized


class TilesUnsuitable(Exception):
    """No tiles can be measured for this model. The message says why."""


@dataclass(frozen=True)
class ExpertShape:
    """One rank's experts of one layer, and how tokens come to them."""

    experts: int  # on this rank
    all_experts: int
    width: int  # of an expert
    hidden: int
    top_k: int


def read_name(name: str) -> tuple[int, int]:
    """Experts and their width, from the name of a file that vLLM misses. Raises TilesUnsuitable."""
    found = NAME.fullmatch(name)
    if found is None:
        raise TilesUnsuitable(f"{name} is of quantized weights, whose tiles are not measured")
    return int(found[1]), int(found[2])


def tiles() -> list[Tile]:
    """What is tried. Those that are likely to suit many sequences come first, for time may run out."""
    found = [
        _tile(rows, columns, depth, 8 if rows * columns >= 128 * 128 else 4, stages)
        for rows, columns, depth, stages in product((64, 32, 16, 128), (128, 64), (64, 128), (3, 4))
    ]
    return found + [{**tile, "GROUP_SIZE_M": 16} for tile in found if tile["BLOCK_SIZE_M"] >= 64]


def _tile(rows: int, columns: int, depth: int, warps: int, stages: int) -> Tile:
    return {
        "BLOCK_SIZE_M": rows,
        "BLOCK_SIZE_N": columns,
        "BLOCK_SIZE_K": depth,
        "GROUP_SIZE_M": 1,
        "num_warps": warps,
        "num_stages": stages,
    }


def suits(tile: Tile, tokens: int) -> bool:
    """Whether it is worth a try: large blocks of few tokens are mostly empty, small ones of many too many."""
    rows = tile["BLOCK_SIZE_M"]
    return not (tokens <= FEW_TOKENS and rows > FEW_TOKENS) and not (tokens > MANY_TOKENS and rows < FEW_TOKENS)


def search(time_of: TimeOf, seconds: float, clock: Callable[[], float] = time.monotonic) -> dict[int, Tile]:
    """The fastest tiles found within a time, by tokens; none where vLLM's own choice was not beaten clearly.

    Each tile is tried for all numbers of tokens before the next, for it is compiled once.
    """
    ends = clock() + seconds
    best: dict[int, tuple[float, Tile]] = {}
    own = {tokens: time_of(None, tokens) for tokens in TOKENS}
    for tile in tiles():
        for tokens in TOKENS:
            if clock() > ends:
                return {tokens: tile for tokens, (_, tile) in best.items()}
            former = best[tokens][0] if tokens in best else (own[tokens] or 0.0) * (1 - MIN_GAIN)
            took = time_of(tile, tokens) if suits(tile, tokens) else None
            if took is not None and took < former:
                best[tokens] = (took, tile)
    return {tokens: tile for tokens, (_, tile) in best.items()}


def write_tiles(path: Path, found: Mapping[int, Tile], own: Mapping[int, Tile]) -> None:
    """As vLLM reads them. Where nothing better was found its own choice stands: entries hold for their neighbours."""
    whole = {str(tokens): found.get(tokens, own[tokens]) for tokens in TOKENS}
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(whole, indent=4) + "\n")
    new.replace(path)


def tune_tiles(model: str, revision: str | None, path: Path, seconds: float) -> int:
    """Measures, and writes the file. For how many numbers of tokens something better was found.

    Raises TilesUnsuitable; ImportError where there is no vLLM.
    """
    from engines.vllm_engine.moe_timing import MoeTiming, expert_shape

    experts, width = read_name(path.name)
    timing = MoeTiming(expert_shape(model, revision, experts, width), model, revision)
    found = search(timing.time_of, seconds)
    write_tiles(path, found, {tokens: timing.own_choice(tokens) for tokens in TOKENS})
    return len(found)
