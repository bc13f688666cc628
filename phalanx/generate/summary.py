"""What a job came to, in a line."""

from phalanx.generate.merge import Merge
from phalanx.generate.spool import Totals


def summary(merge: Merge, totals: Totals, tokens: int, seconds: float) -> str:
    """Of all rows; the rate is that of this run, which made `tokens` in so many seconds."""
    parts = [
        f"{merge.rows:,} rows: {merge.rows - merge.failed:,} ok, {merge.failed:,} failed",
        f"{totals.prompt_tokens:,} prompt tokens",
        f"{totals.completion_tokens:,} completion tokens",
        f"{tokens / seconds:,.0f} tok/s" if seconds else "",
        f"{seconds:,.1f} s",
    ]
    return ", ".join(filter(None, parts))
