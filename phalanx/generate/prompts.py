"""What is sent for a row: a prompt or a chat, under the row's number as its custom_id.

The number as custom_id keeps a row's seed the same when only some rows are sent again.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from phalanx.generate.errors import RowProblem, UsageProblem
from phalanx.generate.parameters import Parameters
from phalanx.generate.rows import LINE_COLUMN, Row
from phalanx.generate.template import Template, as_text


class PromptMaker:
    """Makes items of rows, as the parameters say. `columns` are those it needs. Raises UsageProblem."""

    def __init__(self, parameters: Parameters) -> None:
        self._template = None if parameters.template is None else Template(parameters.template)
        self._messages_column = parameters.messages_column
        self._prompt_column = parameters.prompt_column or LINE_COLUMN
        self._system = parameters.system
        self._is_chat = parameters.chat or parameters.system is not None
        if self._template is not None:
            self.columns = self._template.columns
        else:
            self.columns = [self._messages_column or self._prompt_column]

    def check(self, existing: Sequence[str]) -> None:
        """Raises UsageProblem for a column that is needed and not among these."""
        for name in self.columns:
            if name not in existing:
                names = ", ".join(existing) or "none"
                raise UsageProblem(
                    f"the input has no column {name!r}; it has: {names}. Name another with --prompt-column, "
                    "--messages-column or --template"
                )

    def item(self, row: Row) -> dict[str, Any]:  # Any: JSON
        """The item to send. Raises RowProblem."""
        if row.problem is not None:
            raise RowProblem(row.problem)
        if self._messages_column is not None:
            return {"custom_id": str(row.number), "messages": self._messages(row)}
        text = self._template.fill(row.columns) if self._template else as_text(self._prompt_column, row.columns)
        if not text:
            where = f"column {self._prompt_column!r}" if self._template is None else "the prompt"
            raise RowProblem(f"{where} is empty")
        if self._is_chat:
            return {"custom_id": str(row.number), "messages": self._chat([{"role": "user", "content": text}])}
        return {"custom_id": str(row.number), "prompt": text}

    def _messages(self, row: Row) -> list[Any]:
        name = str(self._messages_column)
        if name not in row.columns:
            raise RowProblem(f"the row has no column {name!r}")
        found = row.columns[name]
        if isinstance(found, str):  # as CSV has it
            try:
                found = msgspec.json.decode(found)
            except msgspec.DecodeError as error:
                raise RowProblem(f"column {name!r} is invalid JSON ({error})") from None
        if not isinstance(found, list) or not found:
            raise RowProblem(f"column {name!r} is no list of messages")
        return self._chat(found)

    def _chat(self, messages: list[Any]) -> list[Any]:
        return messages if self._system is None else [{"role": "system", "content": self._system}, *messages]
