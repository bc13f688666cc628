"""Lines of OpenAI's batches as items: each is an exchange, and its answer is a line of the output or the error file."""

from collections.abc import Iterable

import msgspec

from app.batches.detached.sink import JournalSink
from app.batches.feeding import TakesIn
from app.batches.prediction import BatchSize
from app.batches.record import Label
from app.batches.results import ItemEnd, Status
from app.batches.run import BatchRun
from app.batches.shape import ResultShape
from app.batches.turnstile import Turnstile
from app.dispatch.item import Item
from app.errors import InvalidRequest
from app.exchanges.items import make_item, max_tokens_of
from app.exchanges.parts import prompts_of
from app.exchanges.refusals import refusal_of_answer
from app.exchanges.request import ExchangeRequest
from app.journal.records import StoredBatch
from app.openai_batches.output_line import LineError, answered, is_output, refused, unanswered, without_turn
from app.openai_batches.validation import read_task
from app.ranks.fleet import Fleet
from app.settings.declaration import Settings
from engines.contract.exchanges import AnswerHead, Exchange, ExchangeHead
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import Outcome, Result

JSON = "application/json"
FIRST_REFUSAL = 400  # of HTTP's statuses


class LineOptions(msgspec.Struct, frozen=True):
    """What is stored of a batch beside its items."""

    endpoint: str  # one of ENDPOINTS

    def encode(self) -> bytes:
        """As it is stored."""
        return msgspec.json.encode(self)


_decode_options = msgspec.json.Decoder(LineOptions).decode


def endpoint_of(stored: StoredBatch) -> str:
    """Where all requests of a batch go."""
    return _decode_options(stored.options).endpoint


class LineShape:
    """Results as lines of files. Whatever was not answered with 200 counts as an error."""

    def __init__(self, batch_id: str) -> None:
        self._batch_id = batch_id

    def status(self, result: Result) -> Status:
        """What a line's result counts as."""
        if result.outcome is Outcome.ABORTED:
            return "cancelled"
        return "ok" if result.head is not None and is_output(result.head.status) else "error"

    def encode(self, end: ItemEnd) -> bytes:
        """The line, without its end."""
        custom_id, result = end.label.custom_id or "", end.result
        if result is not None and result.head is not None:
            return self._answer(custom_id, request_id(self._batch_id, end.index), result.head, result.outputs)
        if result is not None and result.error is not None:
            return unanswered(custom_id, LineError(str(result.error.code), result.error.message))
        return without_turn(custom_id, end.status)

    @staticmethod
    def _answer(custom_id: str, name: str, head: AnswerHead, body: bytes) -> bytes:
        if head.status >= FIRST_REFUSAL:
            return refused(custom_id, refusal_of_answer(head.status, body), name)
        return answered(custom_id, head.status, name, body, is_json=head.content_type.startswith(JSON))


class Lines:
    """The Making of the run of a batch whose lines are exchanges."""

    def __init__(self, stored: StoredBatch, endpoint: Exchange, settings: Settings, fleet: Fleet) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._fleet = fleet
        self.shape: ResultShape = LineShape(stored.id)

    def intake(self, run: BatchRun[JournalSink]) -> TakesIn:
        """For the run's items."""
        return LineIntake(run, self._endpoint, self._settings, self._fleet.max_model_len)

    def size(self, items: int) -> BatchSize | None:
        """Nobody knows before they come: each line says it for itself."""
        return None


class LineIntake:
    """Makes items of lines, which were validated when they were stored."""

    def __init__(
        self, run: BatchRun[JournalSink], endpoint: Exchange, settings: Settings, max_model_len: int | None
    ) -> None:
        self._run = run
        self._endpoint = endpoint
        self._settings = settings
        self._max_model_len = max_model_len

    async def take(
        self, prompts: Iterable[tuple[int, bytes]], turnstile: Turnstile, max_wire_bytes: int | None = None
    ) -> list[Item]:
        """Those that run, in order."""
        items = []
        for index, raw in prompts:
            self._run.take(index)
            task = read_task(raw)
            self._run.record.labels[index] = Label(task.custom_id)
            try:
                item = self._item(index, bytes(task.body))
            except InvalidRequest as refused:
                self._run.refuse(index, ItemError(ItemErrorCode.INVALID_PROMPT, refused.message, refused.param))
                continue
            self._run.add(item)
            items.append(item)
            await turnstile.pause_when_over()
        return items

    def _item(self, index: int, body: bytes) -> Item:
        request = ExchangeRequest(self._endpoint, body)
        return make_item(
            self._run,
            self._run.flow,
            index,
            body,
            ExchangeHead(self._endpoint, request_id(self._run.record.id, index)),
            max_tokens=max_tokens_of(request, self._settings.default_max_tokens, self._max_model_len),
            sequences=min(request.sequences, self._settings.max_n) * prompts_of(request),  # more are refused
        )


def request_id(batch_id: str, index: int) -> str:
    """What the answer's own id is made of."""
    return f"{batch_id}-{index}"
