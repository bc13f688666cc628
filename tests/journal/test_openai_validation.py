"""Input files read into the journal: a batch in progress with all its items, or failed with all that is wrong."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from app.batches.turnstile import Turnstile
from app.journal.journal import Journal
from app.journal.openai_records import StoredOpenAIBatch
from app.journal.place import Place
from app.journal.records import Sizes
from app.journal.states import BatchKind, BatchState, OpenAIBatchStatus
from app.openai_batches.input_file import MAX_PROBLEMS, Limits
from app.openai_batches.validation import Validation, read_task
from tests.journal.stored import filed, new_batch
from tests.journal.test_journal_files import with_journal
from tests.journal.test_openai_batches import new

Status = OpenAIBatchStatus


def line(custom_id: str, **fields: Any) -> bytes:
    good = {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": {"prompt": custom_id}}
    return json.dumps(good | fields).encode() + b"\n"


def reading(journal: Journal, batch: StoredOpenAIBatch, tasks: int = 5000) -> Validation:
    run = new_batch("run", kind=BatchKind.OPENAI)
    return Validation(journal, batch, run, Limits(line_bytes=1000, tasks=tasks))


async def validate(journal: Journal, content: bytes, tasks: int = 5000) -> StoredOpenAIBatch:
    await filed(journal, content, "file-1", purpose="batch")
    batch = await journal.openai_batches.create(new())
    return await reading(journal, batch, tasks).validate(Turnstile())


def problems(batch: StoredOpenAIBatch) -> list[tuple[str, int | None]]:
    assert batch.status is Status.FAILED and batch.errors is not None
    return [(one["code"], one["line"]) for one in json.loads(batch.errors)]


def test_a_good_file_becomes_the_items_of_a_run(place: Place) -> None:
    async def check(journal: Journal) -> None:
        batch = await validate(journal, b"\n".join(line(f"c-{number}") for number in range(1000)))
        assert batch.status is Status.IN_PROGRESS and batch.run is not None
        run = await journal.of_ordinal(batch.run)
        assert (run.state, run.size, run.deadline_at, run.kind) == (
            BatchState.QUEUED,
            1000,
            batch.expires_at,
            BatchKind.OPENAI,
        )
        stored = [read_task(item.body) for item in await journal.unfinished_items(batch.run)]
        assert [task.custom_id for task in stored] == [f"c-{number}" for number in range(1000)]
        assert bytes(stored[7].body) == b'{"prompt": "c-7"}'
        files = await journal.files.outputs(batch.run)
        assert {file.id for file in files.values()} == {batch.output_file_id, batch.error_file_id}
        assert sorted(file.filename for file in files.values()) == ["batch_1_error.jsonl", "batch_1_output.jsonl"]

    with_journal(place, check)


def test_all_that_is_wrong_is_listed_by_line_and_nothing_is_kept(place: Place) -> None:
    async def check(journal: Journal) -> None:
        content = [line("a"), line("b", url="/v1/x"), line("a"), b"{\n", line("c"), line("a", body={"model": "other"})]
        content += [line("c")]
        batch = await validate(journal, b"".join(content))
        assert problems(batch) == [
            ("url_mismatch", 2),
            ("duplicate_custom_id", 3),
            ("invalid_json_line", 4),
            ("model_mismatch", 6),
            ("duplicate_custom_id", 7),
        ]
        assert batch.run is None
        assert await journal.sizes("t") == Sizes(batches=1, files=1, bytes=sum(map(len, content)))

    with_journal(place, check)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", [("empty_file", None)]),
        (line("a") * 2 + line("b"), [("duplicate_custom_id", 2), ("too_many_tasks", None)]),
        (b"{\n" * 2, [("invalid_json_line", 1), ("invalid_json_line", 2)]),
    ],
)
def test_a_file_may_be_wrong_as_a_whole(place: Place, content: bytes, found: list[tuple[str, int | None]]) -> None:
    async def check(journal: Journal) -> None:
        assert problems(await validate(journal, content, tasks=2)) == found

    with_journal(place, check)


def test_so_many_problems_are_listed(place: Place) -> None:
    async def check(journal: Journal) -> None:
        found = problems(await validate(journal, line("a") * 300))
        assert found == [("duplicate_custom_id", number) for number in range(2, MAX_PROBLEMS + 2)]

    with_journal(place, check)


def test_a_file_that_is_gone_is_said(place: Place) -> None:
    async def check(journal: Journal) -> None:
        batch = await journal.openai_batches.create(new(input_file_id="nothing"))
        assert problems(await reading(journal, batch).validate(Turnstile())) == [("input_file_gone", None)]

    with_journal(place, check)


class Interrupted(Turnstile):
    """Something happens when some of the file has been read."""

    def __init__(self, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        super().__init__()
        self._act: Callable[[], Coroutine[Any, Any, None]] | None = act
        self._turns = 0

    async def enter(self) -> None:
        self._turns += 1
        if self._turns == 3 and self._act is not None:
            act, self._act = self._act, None
            await act()


def test_what_was_broken_off_is_done_again(place: Place) -> None:
    async def check(journal: Journal) -> None:
        content = b"".join(line(f"c-{number}") for number in range(1000))
        await filed(journal, content, "file-1")
        batch = await journal.openai_batches.create(new())

        async def break_off() -> None:
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await reading(journal, batch).validate(Interrupted(break_off))
        again = Validation(journal, batch, new_batch("run 2", kind=BatchKind.OPENAI), Limits(1000, 5000))
        started = await again.validate(Turnstile())
        assert started.status is Status.IN_PROGRESS and started.run is not None
        assert (await journal.of_ordinal(started.run)).size == 1000
        assert (await journal.sizes("t")).items == 1000

    with_journal(place, check)


def test_a_batch_that_is_cancelled_meanwhile_does_not_begin(place: Place) -> None:
    async def check(journal: Journal) -> None:
        await filed(journal, b"".join(line(f"c-{number}") for number in range(1000)), "file-1")
        batch = await journal.openai_batches.create(new())

        async def cancel() -> None:
            await journal.openai_batches.set_status(batch.ordinal, Status.CANCELLING)

        found = await reading(journal, batch).validate(Interrupted(cancel))
        assert (found.status, found.run) == (Status.CANCELLING, None)
        assert (await journal.sizes("t")).items == 0

    with_journal(place, check)
