"""Whether an input has the columns that are needed, before anything is sent."""

from itertools import islice

from phalanx.generate.columns import AddedColumns
from phalanx.generate.prompts import PromptMaker
from phalanx.generate.rows import Source

LOOKED_AT = 100  # rows of an input that names its columns in each


def check_columns(source: Source, maker: PromptMaker, added: AddedColumns) -> None:
    """Raises UsageProblem when a column is missing or two would have one name.

    Of JSONL the first rows are looked at: a column that is in none of them is missing. Later rows have errors of
    their own.
    """
    names = source.columns()
    if names is None:
        first = next(source.chunks(), None)
        rows = [row for row in islice(first.rows, LOOKED_AT) if row.problem is None] if first else []
        if not rows:
            return
        names = list(dict.fromkeys(name for row in rows for name in row.columns))
    maker.check(names)
    added.check(names)
