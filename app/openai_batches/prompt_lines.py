"""Lines of OpenAI's batches that are prompts of ``/v1/batch_generate``: each is an item as any other, and its result is
the body of its answer."""

from collections.abc import Iterable

import msgspec

from app.batches.detached.sink import JournalSink
from app.batches.feeding import TakesIn
from app.batches.intake import Intake
from app.batches.prediction import BatchSize
from app.batches.request import NO_PROMPTS, BatchRequest
from app.batches.results import ItemEnd, Status, encode_result, result_error
from app.batches.run import BatchRun
from app.batches.sampling import SamplingResolver
from app.batches.shape import ITEM_SHAPE, ResultShape
from app.batches.turnstile import Turnstile
from app.dispatch.item import Item
from app.exchanges.refusals import refusal_of_item
from app.journal.records import StoredBatch
from app.openai_batches.lines import request_id
from app.openai_batches.output_line import answered, refused, without_turn
from app.openai_batches.validation import StoredTask, read_task
from app.ranks.fleet import Fleet
from app.settings.declaration import Settings
from engines.contract.protocol import Result

BODY = "body"  # a prompt's place on its line
OF_THE_LINE = ("model", "stream")  # fields of a body that are no prompt's, and were checked when the file was read

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class PromptLineShape:
    """Results as lines of files: what is not ok is an error of its own status."""

    def __init__(self, batch_id: str) -> None:
        self._batch_id = batch_id

    def status(self, result: Result) -> Status:
        """What a line's result counts as."""
        return ITEM_SHAPE.status(result)

    def encode(self, end: ItemEnd) -> bytes:
        """The line, without its end."""
        custom_id, name = end.label.custom_id or "", request_id(self._batch_id, end.index)
        if end.status == "ok":
            return answered(custom_id, 200, name, encode_result(end))
        error = end.result.error if end.result is not None else None
        if error is not None:
            refusal = refusal_of_item(error)
            refusal.param = result_error(error, BODY if end.place else "").param
            return refused(custom_id, refusal, name)
        return without_turn(custom_id, end.status)


class PromptLines:
    """The Making of the run of a batch whose lines are prompts."""

    def __init__(self, stored: StoredBatch, settings: Settings, fleet: Fleet) -> None:
        self._settings = settings
        self._fleet = fleet
        self._resolver = SamplingResolver(settings, None)
        self.shape: ResultShape = PromptLineShape(stored.id)

    def intake(self, run: BatchRun[JournalSink]) -> TakesIn:
        """For the run's items."""
        return PromptLineIntake(
            Intake(
                BatchRequest(prompts=NO_PROMPTS),
                self._resolver,
                self._settings,
                run,
                self._fleet.max_model_len,
                is_duplicate=lambda *_: False,
                place_of=lambda _: BODY,
            )
        )

    def size(self, items: int) -> BatchSize | None:
        """Nobody knows before they come: each line says it for itself."""
        return None


class PromptLineIntake:
    """Makes items of lines as of any prompts."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def take(
        self, prompts: Iterable[tuple[int, bytes]], turnstile: Turnstile, max_wire_bytes: int | None = None
    ) -> list[Item]:
        """Those that run, in order."""
        taken = ((index, _prompt_of(read_task(raw))) for index, raw in prompts)
        return await self._intake.take(taken, turnstile, max_wire_bytes)


def _prompt_of(task: StoredTask) -> bytes:
    """The prompt, with its line's custom_id, as JSON."""
    fields = _decode_fields(task.body)
    for name in OF_THE_LINE:
        fields.pop(name, None)
    return _encode(fields | {"custom_id": msgspec.Raw(_encode(task.custom_id))})
