"""What a sweep has found: a table for a person, JSON for a script."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from phalanx.console import make_console
from phalanx.tune.trials import Trial

MIB, GIB = 1 << 20, 1 << 30


def print_trials(trials: Sequence[Trial], best: Trial) -> None:
    """A line for each candidate, the fastest first, and below them why others cannot be used."""
    console = make_console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("CANDIDATE")
    for heading in ("TOK/S", "SPREAD", "GAIN", "TAIL", "MEMORY", "START", "ROUNDS"):
        table.add_column(heading, justify="right")
    usable = sorted((trial for trial in trials if trial.is_usable), key=lambda trial: -trial.tokens_per_s)
    for trial in usable:
        style = "bold green" if trial is best else None
        table.add_row(*_cells(trial, trials[0]), style=style)
    console.print(table)
    for trial in trials:
        if trial.failure is not None:
            line = f"{trial.candidate.words} cannot be used: {trial.failure}"
            console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)


def shown(trial: Trial, baseline: Trial) -> dict[str, Any]:  # Any: JSON
    """A trial for a script. Figures are medians; there are none of one that failed."""
    is_usable = trial.is_usable
    return {
        "candidate": trial.candidate.words,
        "expert_parallel": trial.candidate.expert_parallel,
        "ranks_per_gpu": trial.candidate.ranks_per_gpu,
        "sequences": trial.candidate.sequences,
        "graph_tokens": trial.candidate.graph_tokens,
        "step_tokens": trial.candidate.step_tokens,
        "tiles": trial.candidate.tiles,
        "tokens_per_s": round(trial.tokens_per_s, 1) if is_usable else None,
        "spread": round(trial.spread, 4) if is_usable else None,
        "against_baseline": _against(trial, baseline) if is_usable else None,
        "tail_s": round(trial.tail_s, 3) if is_usable else None,
        "memory_bytes": trial.memory_bytes,
        "start_s": round(trial.mean_start_s, 2) if trial.start_s else None,
        "rounds": len(trial.rounds),
        "failure": trial.failure,
    }


def _cells(trial: Trial, baseline: Trial) -> list[str]:
    return [
        trial.candidate.words,
        f"{trial.tokens_per_s:,.0f}",
        f"±{trial.spread:.1%}",
        f"{_against(trial, baseline):.2f}",
        f"{trial.tail_s:.2f} s",
        _memory(trial.memory_bytes),
        f"{trial.mean_start_s:.1f} s",
        str(len(trial.rounds)),
    ]


def _memory(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size / GIB:,.1f} GiB" if size >= GIB else f"{size / MIB:,.0f} MiB"


def _against(trial: Trial, baseline: Trial) -> float:
    return round(trial.tokens_per_s / baseline.tokens_per_s, 4)
