"""What a job came to, in a line."""

from phalanx.generate.merge import Merge
from phalanx.generate.spool import Totals


def summary(merge: Merge, totals: Totals, tokens_per_s: float | None, seconds: float) -> str:
    """Of all rows; rate and time are those of this run. There is no rate where all results were there already."""
    parts = [
        f"{merge.rows:,} rows: {merge.rows - merge.failed:,} ok, {merge.failed:,} failed",
        f"{totals.prompt_tokens:,} prompt tokens",
        f"{totals.completion_tokens:,} completion tokens",
        f"{tokens_per_s:,.0f} tok/s" if tokens_per_s else "",
        f"{seconds:,.1f} s",
    ]
    return ", ".join(filter(None, parts))
