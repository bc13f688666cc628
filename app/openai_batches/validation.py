"""From a batch that was just made to one that runs: its input file is read into the journal, a few hundred lines at a
time, and everything that is wrong with it is found before anything of it runs.

It can be interrupted anywhere and done again: the items of a run that was not sealed are gone with it.
"""

import contextlib
import math
import time

import msgspec

from app.batches.turnstile import Turnstile
from app.files.names import new_file_id
from app.files.reading import content
from app.journal.errors import NoSuchBatch, NoSuchFile, WrongState
from app.journal.journal import Journal
from app.journal.openai_records import StoredOpenAIBatch
from app.journal.records import NewBatch, NewItem, NewOutput, Sealing, StoredBatch, StoredFile
from app.journal.states import OpenAIBatchStatus, OutputKind
from app.openai_batches.input_file import MAX_PROBLEMS, InputFile, Limits
from app.openai_batches.input_line import Expected, Problem, ProblemCode, Task, duplicate

_encode = msgspec.json.Encoder().encode


class StoredTask(msgspec.Struct, frozen=True):
    """A line as the journal has it. `body` is the JSON object that it came as."""

    custom_id: str
    body: msgspec.Raw


read_task = msgspec.json.Decoder(StoredTask).decode


class Validation:
    """Reads one batch's file. `run` is what its items are stored as."""

    def __init__(self, journal: Journal, batch: StoredOpenAIBatch, run: NewBatch, limits: Limits) -> None:
        self._journal = journal
        self._batch = batch
        self._run = run
        self._limits = limits
        self._problems: list[Problem] = []

    async def validate(self, turnstile: Turnstile) -> StoredOpenAIBatch:
        """The batch, in progress or failed; or as it is, if it has been cancelled meanwhile.

        Raises JournalUnavailable, after which it can be done again.
        """
        batch = await self._now()
        if batch.run is not None:  # of a try that was broken off
            await self._discard(batch.run)
        try:
            run = await self._journal.openai_batches.begin_run(batch.ordinal, self._run)
            await self._read(run, turnstile)
            if not self._problems:
                return await self._start(batch, run)
            await self._discard(run.ordinal)
            return await self._journal.openai_batches.set_status(
                batch.ordinal, OpenAIBatchStatus.FAILED, errors=_encode(self._problems)
            )
        except WrongState:
            batch = await self._now()
            if batch.run is not None:
                await self._discard(batch.run)
            return await self._now()

    async def _read(self, run: StoredBatch, turnstile: Turnstile) -> None:
        """Stores the tasks, and finds all that is wrong: when something is, for the sake of their custom_ids."""
        batch = self._batch
        file = await self._journal.files.get(batch.input_file_id, batch.tenant)
        if file is None:
            self._problems.append(_file_gone(batch.input_file_id))
            return
        reader = InputFile(Expected(batch.endpoint, run.model), self._limits, turnstile)
        try:
            await self._take_in(run, file, reader)
        except NoSuchFile:
            self._problems.append(_file_gone(file.id))

    async def _take_in(self, run: StoredBatch, file: StoredFile, reader: InputFile) -> None:
        async for checked in reader.read(content(self._journal.files, file, 0, file.size)):
            found = [*checked.problems, *await self._store(run, checked.tasks)]
            self._problems += sorted(found, key=_place)
            if len(self._problems) >= MAX_PROBLEMS:
                del self._problems[MAX_PROBLEMS:]
                return

    async def _store(self, run: StoredBatch, tasks: list[Task]) -> list[Problem]:
        """Those whose custom_id stands on an earlier line."""
        if not tasks:
            return []
        appended = await self._journal.append(run.ordinal, [NewItem(_stored(task), task.custom_id) for task in tasks])
        return [duplicate(tasks[index - appended.first]) for index in appended.duplicates]

    async def _start(self, batch: StoredOpenAIBatch, run: StoredBatch) -> StoredOpenAIBatch:
        kept_s = batch.output_kept_s
        expires_at = None if kept_s is None else time.time() + kept_s
        outputs = [
            NewOutput(id=new_file_id(), holds=kind, filename=f"{batch.id}_{kind}.jsonl", expires_at=expires_at)
            for kind in OutputKind
        ]
        return await self._journal.openai_batches.start(batch.ordinal, Sealing(deadline_at=batch.expires_at), outputs)

    async def _discard(self, run: int) -> None:
        with contextlib.suppress(NoSuchBatch):
            await self._journal.delete(run)

    async def _now(self) -> StoredOpenAIBatch:
        found = await self._journal.openai_batches.get(self._batch.id, None)
        if found is None:
            raise NoSuchBatch("there is no such batch: it may have been removed")
        return found


def _place(problem: Problem) -> float:
    """By line; what concerns the whole file comes last."""
    return math.inf if problem.line is None else problem.line


def _stored(task: Task) -> bytes:
    return _encode({"custom_id": task.custom_id})[:-1] + b',"body":' + task.body + b"}"


def _file_gone(file_id: str) -> Problem:
    message = f"the input file {file_id!r} is not there any more: upload it again, and create another batch"
    return Problem(code=ProblemCode.INPUT_FILE_GONE, line=None, message=message, param="input_file_id")
