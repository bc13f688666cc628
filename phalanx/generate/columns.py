"""The columns that are added to a row: its texts, how it ended, and its tokens."""

from collections.abc import Iterable
from typing import Any

from phalanx.generate.errors import UsageProblem
from phalanx.generate.spool import Entry

BAD_ROW = "invalid_row"
NO_RESULT = "no_result"


class AddedColumns:
    """The added columns by name. `has_many`: several texts a row, as lists."""

    def __init__(self, prefix: str, has_many: bool) -> None:
        self.has_many = has_many
        self._prefix = prefix
        text = "texts" if has_many else "text"
        plain = (text, "finish_reason", "status", "error", "prompt_tokens", "completion_tokens")
        self.names = [prefix + name for name in plain]

    def check(self, existing: Iterable[str]) -> None:
        """Raises UsageProblem when the input has columns of these names."""
        if found := self.clash(existing):
            raise UsageProblem(f"{found}: give the new columns a prefix, as in --prefix generated_")

    def clash(self, existing: Iterable[str]) -> str | None:
        """What is wrong when a row has columns of these names."""
        both = sorted(set(self.names).intersection(existing))
        return f"the input has a column {both[0]!r} already" if both else None

    def values(self, entry: Entry) -> dict[str, Any]:  # Any: text, numbers, lists
        """The added columns of a row."""
        texts: Any = entry.texts
        reasons: Any = entry.finish_reasons
        if not entry.texts:
            texts = reasons = None
        elif not self.has_many:
            texts, reasons = texts[0], reasons[0]
        error = None if entry.code is None else f"{entry.code}: {entry.error}"
        values = (texts, reasons, entry.status, error, entry.prompt_tokens, entry.completion_tokens)
        return dict(zip(self.names, values, strict=True))


def failed_row(row: int, code: str, error: str) -> Entry:
    """The result of a row that was never sent, or never answered."""
    return Entry(0, 0, row, "error", [], [], 0, 0, code, error)
