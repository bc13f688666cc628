"""Files whose lines are a batch's results: they grow with these, and every part of them is found."""

import asyncio
import random
import time

import pytest

from app.files.reading import content
from app.journal.errors import NoSuchFile
from app.journal.journal import Journal
from app.journal.place import Place
from app.journal.records import FilesWanted, NewOutput, NewResult, Sizes, StoredBatch, StoredFile
from app.journal.sql import output_files
from app.journal.states import BatchKind, BatchState, OutputKind
from tests.journal.stored import ERROR, OK, filed, opened, queued, running, seen
from tests.journal.test_journal_files import with_journal

OUTPUT, ERRORS = OutputKind.OUTPUT, OutputKind.ERROR
NEW = (
    NewOutput(id="out", holds=OUTPUT, filename="b_output.jsonl"),
    NewOutput(id="err", holds=ERRORS, filename="b_error.jsonl"),
)


async def begun(journal: Journal, size: int) -> StoredBatch:
    batch = await running(journal, size, kind=BatchKind.OPENAI)
    await journal.files.begin_outputs(batch, NEW)
    return batch


def answer(index: int, size: int = 0, *, is_error: bool = False) -> NewResult:
    return NewResult(index=index, status=ERROR if is_error else OK, body=b'{"line": %d}' % index + b" " * size)


async def whole(journal: Journal, file: StoredFile, start: int = 0) -> bytes:
    return b"".join([piece async for piece in content(journal.files, file, start, file.size)])


def test_each_result_is_a_line_of_one_of_them_in_the_order_in_which_they_became_durable(place: Place) -> None:
    async def check(journal: Journal) -> None:
        batch = await begun(journal, 6)
        empty = await journal.files.outputs(batch.ordinal)
        assert {file.id: (file.size, file.lines, file.purpose) for file in empty.values()} == {
            "out": (0, 0, "batch_output"),
            "err": (0, 0, "batch_output"),
        }
        assert await whole(journal, empty[OUTPUT]) == b""
        await journal.put_results(batch.ordinal, [answer(4), answer(1, is_error=True), answer(2)])
        await journal.put_results(batch.ordinal, [answer(2, 50), answer(0)])  # 2 has its result, and keeps it
        files = await journal.files.outputs(batch.ordinal)
        assert await whole(journal, files[OUTPUT]) == b'{"line": 4}\n{"line": 2}\n{"line": 0}\n'
        assert await whole(journal, files[ERRORS]) == b'{"line": 1}\n'
        assert [(file.lines, file.size) for file in files.values()] == [(3, 36), (1, 12)]
        assert await whole(journal, empty[OUTPUT]) == b"", "as long as it was when it was looked up"
        page = await journal.files.list(FilesWanted(tenant="t", purpose="batch_output"))
        assert {file.id: file.filename for file in page.files} == {"out": "b_output.jsonl", "err": "b_error.jsonl"}
        assert await journal.files.get("out", "another") is None

    with_journal(place, check)


def test_every_part_is_found_with_few_reads_whatever_lies_between(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_files, "MARK_BYTES", 100)
    monkeypatch.setattr(output_files, "MARK_RESULTS", 20)
    chance = random.Random(7)
    order = list(range(300))
    chance.shuffle(order)
    rare = set(chance.sample(order, 6))
    answers = [answer(index, chance.choice((0, 5, 90, 300)), is_error=index in rare) for index in order]
    expected = {
        kind: [one.body + b"\n" for one in answers if (one.status is OK) == (kind is OUTPUT)] for kind in OutputKind
    }

    async def check(journal: Journal) -> None:
        batch = await begun(journal, 300)
        while answers:
            some = chance.randint(1, 40)
            await journal.put_results(batch.ordinal, answers[:some])
            del answers[:some]
        files = await journal.files.outputs(batch.ordinal)
        for kind, file in files.items():
            lines = expected[kind]
            everything = b"".join(lines)
            assert (file.size, file.lines) == (len(everything), len(lines))
            assert await whole(journal, file) == everything
            for start in [*chance.sample(range(file.size), 12), 0, file.size - 1]:
                assert await whole(journal, file, start) == everything[start:]
                assert len(await journal.files.lines_at(file, start)) <= 100 + 300 + 20, "no more than to the next mark"
            for line in [*range(min(len(lines), 30)), len(lines) - 1, len(lines), len(lines) + 5]:
                assert await journal.files.start_of(file, line) == sum(map(len, lines[:line]))

    with_journal(place, check)


def test_they_go_with_their_batch_and_count_for_no_quota_of_their_own(place: Place) -> None:
    async def check(journal: Journal) -> None:
        batch = await begun(journal, 3)
        await filed(journal, b"input", "in")
        await journal.put_results(batch.ordinal, [answer(0)])
        assert await journal.sizes("t") == Sizes(items=3, bytes=3 * 6 + 11 + 5, files=1)
        batch = await journal.set_state(batch.ordinal, BatchState.CANCELLED)
        await journal.files.drop_empty_outputs(batch.ordinal)
        files = await journal.files.outputs(batch.ordinal)
        assert set(files) == {OUTPUT} and await journal.files.get("err", "t") is None
        assert await whole(journal, files[OUTPUT]) == b'{"line": 0}\n'
        await journal.delete(batch.ordinal)
        assert await journal.files.get("out", "t") is None
        await journal.sweep()
        with pytest.raises(NoSuchFile):
            await whole(journal, files[OUTPUT])
        assert await journal.sizes("t") == Sizes(bytes=5, files=1)
        assert [file.id for file in (await journal.files.list(FilesWanted(tenant=None))).files] == ["in"]

    with_journal(place, check)


def test_one_that_is_deleted_or_expires_leaves_the_other_and_the_batch(place: Place) -> None:
    async def check(journal: Journal) -> None:
        batch = await running(journal, 3, kind=BatchKind.OPENAI)
        short = NewOutput(id="err", holds=ERRORS, filename="e", expires_at=time.time())
        await journal.files.begin_outputs(batch, [NEW[0], short])
        await journal.put_results(batch.ordinal, [answer(0), answer(1, is_error=True)])
        before = await journal.sizes("t")
        assert await journal.files.get("err", "t") is None
        assert await journal.files.delete_expired() == 1
        output = await journal.files.get("out", "t")
        assert output is not None
        await journal.files.delete(output.ordinal)
        await journal.sweep()
        await journal.put_results(batch.ordinal, [answer(2)])
        assert (await seen(journal, batch)).counts.ok == 2
        assert await journal.files.outputs(batch.ordinal) == {}
        assert (await journal.sizes("t")).files == before.files == 0

    with_journal(place, check)


def test_they_outlive_the_gateway(place: Place) -> None:
    async def begin(journal: Journal) -> None:
        batch = await begun(journal, 2)
        await journal.put_results(batch.ordinal, [answer(1)])

    async def go_on(journal: Journal) -> None:
        (batch,) = await journal.open_batches()
        assert batch.kind is BatchKind.OPENAI
        await journal.put_results(batch.ordinal, [answer(0)])
        file = (await journal.files.outputs(batch.ordinal))[OUTPUT]
        assert await whole(journal, file) == b'{"line": 1}\n{"line": 0}\n'

    with_journal(place, begin)
    with_journal(place, go_on)


def test_batches_of_openais_api_are_not_in_the_list_of_ours(place: Place) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            await queued(journal, 1, "ours")
            await queued(journal, 1, "theirs", kind=BatchKind.OPENAI)
            page = await journal.list_batches("t")
            assert [batch.id for batch in page.batches] == ["ours"]
            found = await journal.get("theirs", "t")
            assert found is not None and found.kind is BatchKind.OPENAI
            assert len(await journal.open_batches()) == 2

    asyncio.run(check())
