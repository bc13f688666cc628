"""What was measured: single runs, and the rows of a comparison that medians of them make."""

import statistics
from typing import Protocol

import msgspec


class Run(msgspec.Struct, kw_only=True):
    """One workload, done once."""

    seconds: float
    prompts: int
    output_tokens: int
    balance_ratio: float | None = None  # mean / max of the ranks' tokens, where it is known
    gateway_cpu_us: float | None = None  # per prompt, where there is a gateway

    @property
    def prompts_per_s(self) -> float:
        """Throughput."""
        return self.prompts / self.seconds


class Side(Protocol):
    """What gets prompts answered, and stays up between runs."""

    name: str

    def start(self) -> None:
        """Returns once it can run workloads. Raises MeasurementFailed."""

    def stop(self) -> None:
        """Leaves no process behind. May be called twice, and without `start`."""

    @property
    def pids(self) -> list[int]:
        """The processes that it started; they may have others below them."""


class Row(msgspec.Struct, kw_only=True):
    """All runs of one side."""

    name: str
    letter: str  # a, b or c; several rows may be ways to use one side
    runs: list[Run] = []
    idle_cores: float | None = None  # CPU that the side takes while it has nothing to do
    mishaps: list[str] = []  # runs that failed; the side was started again and the run repeated
    failure: str | None = None  # why it was left out from then on

    @property
    def prompts_per_s(self) -> float:
        """The median."""
        return statistics.median(run.prompts_per_s for run in self.runs)

    @property
    def tokens_per_s(self) -> float:
        """The median."""
        return statistics.median(run.output_tokens / run.seconds for run in self.runs)


def best(rows: list[Row], letter: str) -> Row | None:
    """The fastest way to use one side."""
    having = [row for row in rows if row.letter == letter and row.runs]
    return max(having, key=lambda row: row.tokens_per_s, default=None)


def ratio(rows: list[Row], over: str, under: str) -> float | None:
    """Between the medians of two sides; None where one of them has no run."""
    upper, lower = best(rows, over), best(rows, under)
    return upper.tokens_per_s / lower.tokens_per_s if upper and lower else None


def table(rows: list[Row]) -> str:
    """The comparison as a markdown table, with the ratios below it."""
    lines = [
        "| side | prompts/s | slowest to fastest | output tokens/s | seconds | runs |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if not row.runs:
            lines.append(f"| ({row.letter}) {row.name} | failed | | | | 0 |")
            continue
        again = f" ({len(row.mishaps)} failed)" if row.mishaps else ""
        rates = sorted(run.prompts_per_s for run in row.runs)
        seconds = statistics.median(run.seconds for run in row.runs)
        lines.append(
            f"| ({row.letter}) {row.name} | {row.prompts_per_s:.1f} | {rates[0]:.1f} to {rates[-1]:.1f} "
            f"| {row.tokens_per_s:.0f} | {seconds:.3f} | {len(row.runs)}{again} |"
        )
    lines.append("")
    for under in "ab":
        value = ratio(rows, "c", under)
        if value is not None:
            lines.append(f"(c)/({under}) = {value:.3f}")
    return "\n".join(lines)
