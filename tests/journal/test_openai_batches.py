"""OpenAI's batches in the journal: their steps with their times, their runs, and what is left of both."""

import time

import pytest

from app.journal.errors import NoSuchBatch, QuotaExceeded, WrongState
from app.journal.journal import Journal
from app.journal.openai_records import NewOpenAIBatch, StoredOpenAIBatch
from app.journal.place import Place
from app.journal.records import Allowance, FilesWanted, NewOutput, Quotas, Sealing, Sizes, StoredBatch
from app.journal.states import BatchKind, BatchState, OpenAIBatchStatus, OutputKind
from tests.journal.stored import items, new_batch, results
from tests.journal.test_journal_files import rows, with_journal

Status = OpenAIBatchStatus
OUTPUTS = [NewOutput(id=f"{kind}-file", holds=kind, filename=f"{kind}.jsonl") for kind in OutputKind]


def new(name: str = "batch_1", **fields: object) -> NewOpenAIBatch:
    given: dict[str, object] = {"id": name, "tenant": "t", "endpoint": "/v1/completions", "input_file_id": "file-1"}
    given |= {"completion_window": "24h", "created_at": time.time(), "expires_at": time.time() + 86400}
    return NewOpenAIBatch(**given | fields)  # type: ignore[arg-type]  # what each field takes


async def validated(journal: Journal, size: int = 3, name: str = "batch_1") -> tuple[StoredOpenAIBatch, StoredBatch]:
    """A batch that is in progress, and its run."""
    batch = await journal.openai_batches.create(new(name))
    run = await journal.openai_batches.begin_run(batch.ordinal, new_batch(f"run {name}", kind=BatchKind.OPENAI))
    await journal.append(run.ordinal, items(size))
    outputs = [NewOutput(id=f"{name} {one.id}", holds=one.holds, filename=one.filename) for one in OUTPUTS]
    started = await journal.openai_batches.start(batch.ordinal, Sealing(deadline_at=batch.expires_at), outputs)
    return started, await journal.of_ordinal(run.ordinal)


async def found(journal: Journal, name: str = "batch_1") -> StoredOpenAIBatch | None:
    return await journal.openai_batches.get(name, "t")


def test_a_batch_goes_from_step_to_step_each_with_its_time(place: Place) -> None:
    async def check(journal: Journal) -> None:
        began = time.time()
        made = await journal.openai_batches.create(new(metadata=b'{"a":"b"}', key_id="key-1", output_kept_s=3600))
        assert (made.status, made.run, made.metadata, made.output_kept_s) == (
            Status.VALIDATING,
            None,
            b'{"a":"b"}',
            3600,
        )
        assert await found(journal) == made and await journal.openai_batches.get("batch_1", "another") is None
        run = await journal.openai_batches.begin_run(made.ordinal, new_batch("run", kind=BatchKind.OPENAI))
        assert run.state is BatchState.RECEIVING
        with pytest.raises(WrongState, match="gets no other run"):
            await journal.openai_batches.begin_run(made.ordinal, new_batch("other", kind=BatchKind.OPENAI))
        await journal.append(run.ordinal, items(3))
        started = await journal.openai_batches.start(made.ordinal, Sealing(), OUTPUTS)
        assert (await journal.of_ordinal(run.ordinal)).state is BatchState.QUEUED
        assert (started.status, started.run) == (Status.IN_PROGRESS, run.ordinal)
        assert (started.output_file_id, started.error_file_id) == ("output-file", "error-file")
        await journal.put_results(run.ordinal, results(range(3)))
        finalizing = await journal.openai_batches.set_status(made.ordinal, Status.FINALIZING)
        await journal.set_state(run.ordinal, BatchState.COMPLETED)
        done = await journal.openai_batches.set_status(made.ordinal, Status.COMPLETED)
        assert finalizing.finalizing_at and done.completed_at and started.in_progress_at
        assert began <= started.in_progress_at <= finalizing.finalizing_at <= done.completed_at <= time.time()
        assert (done.output_file_id, done.error_file_id) == ("output-file", None), "no line is in the other"
        assert (done.failed_at, done.expired_at, done.cancelling_at, done.cancelled_at) == (None,) * 4
        listed = await journal.files.list(FilesWanted(tenant="t"))
        assert [file.id for file in listed.files] == ["output-file"]
        for status in Status:
            with pytest.raises(WrongState, match=f"batch_1 is completed: it cannot become {status}"):
                await journal.openai_batches.set_status(made.ordinal, status)

    with_journal(place, check)


def test_a_batch_whose_file_is_wrong_keeps_the_errors_and_nothing_else(place: Place) -> None:
    async def check(journal: Journal) -> None:
        batch = await journal.openai_batches.create(new())
        with pytest.raises(WrongState, match="has no run"):
            await journal.openai_batches.start(batch.ordinal, Sealing(), OUTPUTS)
        run = await journal.openai_batches.begin_run(batch.ordinal, new_batch("run", kind=BatchKind.OPENAI))
        await journal.append(run.ordinal, items(100))
        seen = await journal.openai_batches.get("batch_1", "t")
        assert seen is not None and await journal.openai_batches.run_of(seen) == await journal.of_ordinal(run.ordinal)
        await journal.delete(run.ordinal)
        assert await journal.openai_batches.run_of(seen) is None
        failed = await journal.openai_batches.set_status(batch.ordinal, Status.FAILED, errors=b"[1]")
        assert (failed.status, failed.errors, failed.run) == (Status.FAILED, b"[1]", None)
        assert failed.failed_at is not None and failed.in_progress_at is None
        assert await journal.sizes("t") == Sizes(batches=1)
        await journal.sweep()
        assert await journal.delete_ended_before(failed.failed_at) == 0
        assert await journal.delete_ended_before(time.time() + 1) == 1
        assert await found(journal) is None and await journal.sizes("t") == Sizes()

    with_journal(place, check)


def test_a_restart_while_the_file_is_read_begins_it_anew(place: Place) -> None:
    async def begin(journal: Journal) -> None:
        batch = await journal.openai_batches.create(new())
        run = await journal.openai_batches.begin_run(batch.ordinal, new_batch("run", kind=BatchKind.OPENAI))
        await journal.append(run.ordinal, items(100))

    async def look(journal: Journal) -> None:
        (batch,) = await journal.openai_batches.all_open()
        assert (batch.status, batch.run) == (Status.VALIDATING, None)
        assert await journal.sizes("t") == Sizes(batches=1)
        await journal.openai_batches.begin_run(batch.ordinal, new_batch("run 2", kind=BatchKind.OPENAI))

    with_journal(place, begin)
    with_journal(place, look)


def test_a_batch_goes_with_its_run(place: Place) -> None:
    async def check(journal: Journal) -> None:
        batch, run = await validated(journal)
        await journal.put_results(run.ordinal, results([0]))
        assert (await journal.sizes("t")).batches == 1, "batch and run are one"
        ended = await journal.set_state(run.ordinal, BatchState.EXPIRED)
        await journal.openai_batches.set_status(batch.ordinal, Status.EXPIRED)
        assert ended.ended_at is not None
        assert await journal.delete_ended_before(ended.ended_at) == 0 and await found(journal) is not None
        assert await journal.delete_ended_before(time.time() + 1) == 1
        assert await found(journal) is None
        with pytest.raises(NoSuchBatch):
            await journal.openai_batches.set_status(batch.ordinal, Status.COMPLETED)
        await journal.sweep()
        assert await journal.sizes("t") == Sizes()

    with_journal(place, check)
    assert [rows(place, table) for table in ("batches", "openai_batches", "files", "file_marks", "results")] == [0] * 5


def test_a_step_that_cannot_be_taken_changes_nothing(place: Place) -> None:
    async def check(journal: Journal) -> None:
        batch, run = await validated(journal)
        with pytest.raises(WrongState, match="it cannot become in_progress"):
            await journal.openai_batches.start(batch.ordinal, Sealing(), OUTPUTS)
        for status in (Status.VALIDATING, Status.IN_PROGRESS):
            with pytest.raises(WrongState):
                await journal.openai_batches.set_status(batch.ordinal, status)
        assert await found(journal) == batch
        assert len(await journal.files.outputs(run.ordinal)) == 2
        await journal.openai_batches.set_status(batch.ordinal, Status.CANCELLING)
        with pytest.raises(WrongState, match="batch_1 is cancelling: it cannot become finalizing"):
            await journal.openai_batches.set_status(batch.ordinal, Status.FINALIZING)
        cancelled = await journal.openai_batches.set_status(batch.ordinal, Status.CANCELLED)
        assert cancelled.cancelling_at and cancelled.cancelled_at and cancelled.output_file_id is None
        assert await journal.openai_batches.all_open() == []

    with_journal(place, check)


def test_lists_are_newest_first_with_the_runs(place: Place) -> None:
    async def check(journal: Journal) -> None:
        _, run = await validated(journal, name="batch_1")
        for name, tenant in (("batch_2", "t"), ("batch_3", "another"), ("batch_4", "t")):
            await journal.openai_batches.create(new(name, tenant=tenant))
        page = await journal.openai_batches.list("t", limit=2)
        assert [batch.id for batch in page.batches] == ["batch_4", "batch_2"] and page.has_more and page.runs == {}
        page = await journal.openai_batches.list("t", limit=2, after="batch_2")
        assert [batch.id for batch in page.batches] == ["batch_1"] and not page.has_more
        assert page.runs == {run.ordinal: run}
        assert len((await journal.openai_batches.list(None)).batches) == 4
        assert (await journal.list_batches(None)).batches == ()

    with_journal(place, check)


def test_they_count_for_the_quota_of_batches(place: Place) -> None:
    async def check(journal: Journal) -> None:
        await validated(journal)
        with pytest.raises(QuotaExceeded, match="tenant t stores 1 batches, and 1 more"):
            await journal.openai_batches.create(new("batch_2"))

    with_journal(place, check, Quotas(tenant=Allowance(batches=1)))
