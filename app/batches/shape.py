"""What a batch's results look like where they are kept or sent: an item's result, or a line of OpenAI's output."""

from typing import Protocol

from app.batches.results import ItemEnd, Status, encode_result
from engines.contract.protocol import Outcome, Result

_STATUS: dict[Outcome, Status] = {
    Outcome.OK: "ok",
    Outcome.ERROR: "error",
    Outcome.ABORTED: "cancelled",
    Outcome.LOST: "error",
}


class ResultShape(Protocol):
    """Turns results into bytes."""

    def status(self, result: Result) -> Status:
        """What an item's result counts as."""

    def encode(self, end: ItemEnd) -> bytes:
        """The result as JSON."""


class ItemShape:
    """Results as a batch of prompts has them."""

    encode = staticmethod(encode_result)

    def status(self, result: Result) -> Status:
        """What an item's result counts as."""
        return _STATUS[result.outcome]


ITEM_SHAPE = ItemShape()
