"""What a batch is, apart from how it runs: who asked for it and when, and what its results repeat of its prompts."""

import re
import time
from dataclasses import dataclass, field

from app.dispatch.item import EVERYBODY, Owner
from app.fresh_ids import fresh_id
from app.keys.key import DEFAULT_TENANT
from app.logs import current_ids


@dataclass(frozen=True)
class Label:
    """What a result hands back of its prompt. `metadata` and `prompt` are JSON, as they came."""

    custom_id: str | None = None
    metadata: bytes | None = None
    prompt: bytes | None = None  # with return_prompt only


NO_LABEL = Label()
BATCH_ID = re.compile("batchgen-[0-9a-f]{32}")


def new_batch_id() -> str:
    """One that no other batch has."""
    return f"batchgen-{fresh_id()}"


@dataclass(frozen=True)
class BatchRecord:
    """One accepted request. Items are its prompts, numbered from 0."""

    model: str
    priority: int
    owner: Owner = EVERYBODY
    tenant: str = DEFAULT_TENANT
    id: str = field(default_factory=new_batch_id)
    created_at: int = field(default_factory=lambda: int(time.time()))
    is_detached: bool = False  # kept in the journal: it outlives its client's connection, and the gateway
    request_ids: dict[str, str] = field(default_factory=current_ids)  # for the log's lines about its end
    labels: dict[int, Label] = field(default_factory=dict)  # by index, of the items that have one

    def label(self, index: int) -> Label:
        """Of one item."""
        return self.labels.get(index, NO_LABEL)

    def take_label(self, index: int) -> Label:
        """Of an item that gets its result now, and has it in there: a prompt may be large, and is not kept twice."""
        return self.labels.pop(index, NO_LABEL)
