"""What the answers depend on, and nothing else: a job goes on only with the same."""

from typing import Any

import msgspec


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """Of one job. `local` is the model of a service that the command starts itself; timeout_s is in seconds."""

    input_format: str
    prompt_column: str | None = None
    template: str | None = None
    messages_column: str | None = None
    system: str | None = None
    chat: bool = False
    model: str | None = None
    local: str | None = None
    priority: int | None = None
    timeout_s: float | None = None
    prefix: str = ""  # of the added columns: which rows can be sent depends on it
    sampling_params: dict[str, Any] = {}  # Any: JSON, by vLLM's names

    @property
    def has_many(self) -> bool:
        """Whether a row gets several texts."""
        n = self.sampling_params.get("n")
        return isinstance(n, int) and n > 1

    def options(self) -> dict[str, Any]:  # Any: JSON
        """What is said of the whole batch."""
        given = {
            "model": self.model,
            "priority": self.priority,
            "timeout_s": self.timeout_s,
            "sampling_params": self.sampling_params or None,
        }
        return {name: value for name, value in given.items() if value is not None}

    def difference(self, other: "Parameters") -> str | None:
        """The first flag that is not the same, and its value there and here."""
        for name in self.__struct_fields__:
            here, there = getattr(self, name), getattr(other, name)
            if here != there:
                flag = "--" + name.replace("_", "-")
                return f"{flag} was {_shown(there)} and is {_shown(here)}"
        return None


def _shown(value: object) -> str:
    return "not given" if value is None else msgspec.json.encode(value).decode()
