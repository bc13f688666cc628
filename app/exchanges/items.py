"""An exchange as an item: what fairness and credit reckon with, whoever sends it."""

from app.dispatch.item import Flow, Item, ItemSink, StreamSink
from app.exchanges.request import BYTES_PER_TOKEN, ExchangeRequest
from engines.contract.exchanges import ExchangeHead
from engines.contract.protocol import PromptKind


def make_item(
    sink: ItemSink,
    flow: Flow,
    index: int,
    body: bytes,
    head: ExchangeHead,
    *,
    max_tokens: int,
    sequences: int,
    stream: StreamSink | None = None,
) -> Item:
    """The item. `max_tokens` is of each of its sequences."""
    return Item(
        sink,
        flow,
        index,
        PromptKind.EXCHANGE,
        body,
        head.encode(),
        prompt_tokens=len(body) // BYTES_PER_TOKEN,
        max_tokens=max_tokens,
        sequences=0 if head.path.is_instant else sequences,
        stream=stream,
    )


def max_tokens_of(request: ExchangeRequest, default: int, max_model_len: int | None) -> int:
    """Tokens that each of its sequences may come to have: none where it generates nothing."""
    if not request.path.may_stream:
        return 0
    asked = request.max_tokens(default)
    return asked if max_model_len is None else min(asked, max_model_len)
