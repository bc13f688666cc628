"""The figures of a job as text that fits a width. Pure."""

from dataclasses import dataclass

MIN_BAR = 10  # cells
SEPARATOR = "  "


@dataclass(frozen=True)
class Figures:
    """How far a job is. Rates and times are None where nobody knows."""

    done: int
    total: int
    failed: int = 0
    items_per_s: float | None = None
    tokens_per_s: float | None = None
    s_left: float | None = None
    standing: str | None = None  # "queued" or "held", while nothing comes

    @property
    def share(self) -> float:
        """Of the whole, from 0 to 1."""
        return min(self.done / self.total, 1.0) if self.total else 1.0


def pieces(figures: Figures) -> list[str]:
    """What is said, in the order of its weight."""
    said = [f"{figures.done:,}/{figures.total:,} rows", f"{figures.failed:,} failed"]
    if figures.standing is not None:
        said.append(figures.standing)
    if figures.items_per_s is not None:
        said.append(f"{_number(figures.items_per_s)} rows/s")
    if figures.tokens_per_s is not None:
        said.append(f"{_number(figures.tokens_per_s)} tok/s")
    if figures.s_left is not None:
        said.append(f"{duration(figures.s_left)} left")
    return said


def bar_lines(figures: Figures, width: int, is_ascii: bool = False) -> list[str]:
    """A bar with the pieces on its line, or below it where the line is too short. No line is wider than `width`."""
    said = pieces(figures)
    percent = f"{int(figures.share * 100)}%"
    rest = SEPARATOR.join(["", percent, *said])
    if width - len(rest) >= MIN_BAR:
        return [_bar(figures.share, width - len(rest), is_ascii) + rest]
    rest = SEPARATOR + percent
    lines = [_bar(figures.share, max(width - len(rest), 1), is_ascii) + rest]
    line = ""
    for piece in said:
        longer = line + SEPARATOR + piece if line else piece
        if len(longer) > width and line:
            lines.append(line)
            longer = piece
        line = longer
    return [text[:width] for text in [*lines, line]]


def duration(seconds: float) -> str:
    """As 0:07, 3:20 or 12:03:20."""
    minutes, left = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def _bar(share: float, width: int, is_ascii: bool) -> str:
    full, empty = ("#", "-") if is_ascii else ("━", "─")
    cells = int(share * width)
    return full * cells + empty * (width - cells)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
