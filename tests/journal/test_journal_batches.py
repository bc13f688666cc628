"""Batches in the journal: how they come in, who sees them, which states follow which, and how they go."""

import asyncio
import time

import pytest

from app.journal.errors import KeyInUse, NoSuchBatch, QuotaExceeded, WrongState
from app.journal.place import FolderPlace, Place
from app.journal.records import Allowance, Counts, DayUsage, NewItem, Quotas, Sealing, Sizes, TokenUsage
from app.journal.sql.batches import KEY_LIFE_S
from app.journal.states import BatchState
from tests.journal.stored import ERROR, items, new_batch, opened, queued, results, running, seen


def test_a_batch_is_visible_when_it_is_sealed_and_has_all_that_was_said(place: Place) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            new = new_batch(
                key_id="key-1",
                priority=-3,
                answer_settings=b'{"dtype": 1}',
                options=b'{ "n":2 }',
                metadata=b"{}",
                idempotency_key="k",
            )
            batch = await journal.create(new)
            assert await journal.get("b", "t") is None and (await journal.list_batches("t")).batches == ()
            assert (await journal.append(batch.ordinal, items(3))).first == 0
            assert (await journal.append(batch.ordinal, items(2, 3))).first == 3
            sealing = Sealing(deadline_at=5.5, expires_at=6.5, body_digest=b"\x00\xff")
            sealed = await journal.seal(batch.ordinal, sealing)
            assert all(getattr(sealed, name) == getattr(sealing, name) for name in sealing.__struct_fields__)
            assert sealed == await journal.get("b", "t") and sealed.state is BatchState.QUEUED
            assert all(getattr(sealed, name) == getattr(new, name) for name in new.__struct_fields__)
            assert (sealed.size, sealed.unfinished, sealed.stored_bytes) == (5, 5, 30)
            with pytest.raises(WrongState, match="it takes no more items"):
                await journal.append(batch.ordinal, items(1))
            with pytest.raises(WrongState, match="it cannot become queued"):
                await journal.seal(batch.ordinal)

    asyncio.run(check())


def test_a_second_use_of_a_custom_id_is_told_wherever_it_stands(place: Place) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            batch = await journal.create(new_batch())
            long = "é" * 300
            first = [NewItem(b"0", "x"), NewItem(b"1", "a\0b"), NewItem(b"2"), NewItem(b"3", "x"), NewItem(b"4", long)]
            assert (await journal.append(batch.ordinal, first)).duplicates == (3,)
            second = [NewItem(b"5", "y"), NewItem(b"6", "x"), NewItem(b"7", long), NewItem(b"8", long + "e")]
            assert (await journal.append(batch.ordinal, second)).duplicates == (6, 7)
            other = await journal.create(new_batch("other"))
            assert (await journal.append(other.ordinal, first[:2])).duplicates == ()
            stored = await journal.unfinished_items(batch.ordinal)
            assert [item.body for item in stored] == [b"%d" % index for index in range(9)]

    asyncio.run(check())


def test_a_tenant_sees_its_own_batches_newest_first(place: Place) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            for number in range(7):
                await queued(journal, 1, f"b{number}", tenant="odd" if number % 2 else "even")
            third = await journal.get("b2", None)
            assert third is not None
            await journal.set_state(third.ordinal, BatchState.HELD, reason="another model")
            assert await journal.get("b1", "even") is None
            assert (await journal.get("b1", "odd")) == (await journal.get("b1", None))
            page = await journal.list_batches("even", limit=3)
            assert [batch.id for batch in page.batches] == ["b6", "b4", "b2"]
            page = await journal.list_batches("even", limit=3, before=page.before)
            assert ([batch.id for batch in page.batches], page.before) == (["b0"], None)
            assert len((await journal.list_batches(None)).batches) == 7
            held = (await journal.list_batches(None, states=[BatchState.HELD])).batches
            assert [(batch.id, batch.reason) for batch in held] == [("b2", "another model")]
            exact = await journal.list_batches("odd", limit=3)
            assert (len(exact.batches), exact.before) == (3, None)

    asyncio.run(check())


def test_an_idempotency_key_stands_for_one_batch_of_a_tenant_until_a_day_after_its_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            first = await journal.create(new_batch("b1", idempotency_key="k"))
            assert await journal.find_by_key("t", "k") == first
            with pytest.raises(KeyInUse, match="belongs to b1") as refused:
                await journal.create(new_batch("b2", idempotency_key="k"))
            assert refused.value.batch_id == "b1"
            await journal.create(new_batch("b3", idempotency_key="k", tenant="another"))
            await journal.seal(first.ordinal)
            await journal.set_state(first.ordinal, BatchState.COMPLETED)
            assert (await journal.find_by_key("t", "k")) is not None
            later = time.time() + KEY_LIFE_S + 5
            monkeypatch.setattr(time, "time", lambda: later)
            assert await journal.find_by_key("t", "k") is None
            again = await journal.create(new_batch("b4", idempotency_key="k"))
            assert await journal.find_by_key("t", "k") == again
            await journal.delete(again.ordinal)
            assert await journal.find_by_key("t", "k") is None
            await journal.create(new_batch("b5", idempotency_key="k"))

    asyncio.run(check())


def test_states_follow_one_another_as_they_may(place: Place) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            batch = await queued(journal, 2)
            with pytest.raises(WrongState, match="2 items without a result: it is not completed"):
                await journal.set_state(batch.ordinal, BatchState.COMPLETED)
            started = await journal.set_state(batch.ordinal, BatchState.IN_PROGRESS)
            assert started.started_at is not None and started.ended_at is None
            held = await journal.set_state(batch.ordinal, BatchState.HELD, reason="no rank is left")
            assert held.reason == "no rank is left"
            going = await journal.set_state(batch.ordinal, BatchState.IN_PROGRESS)
            assert (going.reason, going.started_at) == (None, started.started_at)
            assert (await journal.request_cancel(batch.ordinal)).state is BatchState.CANCELLING
            assert (await journal.request_cancel(batch.ordinal)).state is BatchState.CANCELLING
            with pytest.raises(WrongState, match="is cancelling: it cannot become in_progress"):
                await journal.set_state(batch.ordinal, BatchState.IN_PROGRESS)
            await journal.put_results(batch.ordinal, results([1]))
            ended = await journal.set_state(batch.ordinal, BatchState.CANCELLED, stats=b'{"wall_s": 1}')
            assert ended.ended_at is not None and ended.stats == b'{"wall_s": 1}'
            assert ended.counts == Counts(ok=1, cancelled=1)  # the item without a result counts, too
            for state in BatchState:
                with pytest.raises(WrongState):
                    await journal.set_state(batch.ordinal, state)
            assert (await journal.request_cancel(batch.ordinal)) == ended
            with pytest.raises(NoSuchBatch):
                await journal.set_state(99, BatchState.HELD)

    asyncio.run(check())


def test_a_restart_keeps_what_is_open_and_removes_what_was_still_coming_in(place: Place) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            epoch = journal.epoch
            await queued(journal, 3, "waits")
            await running(journal, 3, "runs")
            half = await journal.create(new_batch("half", idempotency_key="k"))
            await journal.append(half.ordinal, items(3))
            done = await queued(journal, 0, "done")
            await journal.set_state(done.ordinal, BatchState.COMPLETED)
        async with opened(place) as journal:
            assert journal.epoch == epoch + 1
            found = await journal.open_batches()
            assert [(batch.id, batch.restarts_without_result) for batch in found] == [("waits", 0), ("runs", 1)]
            assert await journal.find_by_key("t", "k") is None
            assert await journal.sizes() == Sizes(3, 6, 36)
            await journal.sweep()
        async with opened(place) as journal:
            _, runs = await journal.open_batches()
            assert runs.restarts_without_result == 2
            await journal.put_results(runs.ordinal, results([0]))
            assert (await seen(journal, runs)).restarts_without_result == 0
            await journal.set_state(runs.ordinal, BatchState.QUEUED)  # a graceful stop
        async with opened(place) as journal:
            assert [batch.restarts_without_result for batch in await journal.open_batches()] == [0, 0]

    asyncio.run(check())


def test_resume_runs_what_has_no_result_or_a_retryable_one(place: Place) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            batch = await running(journal, 6)
            await journal.put_results(batch.ordinal, results([0], prompt_tokens=3, completion_tokens=4))
            await journal.put_results(batch.ordinal, results([2], ERROR, retryable=True, prompt_tokens=1))
            await journal.put_results(batch.ordinal, results([4], ERROR))
            with pytest.raises(WrongState, match="one that has ended or is held can be resumed"):
                await journal.resume(batch.ordinal)
            expired = await journal.set_state(batch.ordinal, BatchState.EXPIRED)
            assert expired.counts == Counts(ok=1, error=2, timeout=3)
            resumed = await journal.resume(batch.ordinal, deadline_at=7.0)
            assert (resumed.state, resumed.ended_at, resumed.deadline_at) == (BatchState.QUEUED, None, 7.0)
            assert (resumed.started_at, resumed.stats) == (None, None)
            assert resumed.counts == Counts(ok=1, error=1)
            assert resumed.usage == TokenUsage(3, 4, 0)
            assert [item.index for item in await journal.unfinished_items(batch.ordinal)] == [1, 2, 3, 5]
            report = await journal.put_results(batch.ordinal, results([1, 2, 3, 5]))
            assert report.last_seq == 7 and not report.ignored
            completed = await journal.set_state(batch.ordinal, BatchState.COMPLETED)
            assert completed.counts == Counts(ok=5, error=1)
            (day,) = await journal.usage("t", "2000-01-01", "2999-01-01")  # what was used stays used
            assert (day.requests, day.items, day.prompt_tokens, day.completion_tokens) == (1, 7, 4, 4)

    asyncio.run(check())


def test_a_held_batch_is_resumed_within_the_limits_that_it_has_or_new_ones(place: Place) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            batch = await journal.create(new_batch())
            await journal.append(batch.ordinal, items(2))
            await journal.seal(batch.ordinal, Sealing(deadline_at=5.0, expires_at=6.0))
            await journal.set_state(batch.ordinal, BatchState.HELD, reason="another model")
            resumed = await journal.resume(batch.ordinal, deadline_at=9.0)
            assert (resumed.state, resumed.reason) == (BatchState.QUEUED, None)
            assert (resumed.deadline_at, resumed.expires_at) == (9.0, 6.0)

    asyncio.run(check())


def test_what_is_deleted_is_gone_at_once_and_its_rows_with_the_sweep(place: Place) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            batch = await running(journal, 5000)
            await journal.put_results(batch.ordinal, results(range(5000)))
            kept = await running(journal, 10, "kept")
            with pytest.raises(WrongState, match="is in_progress: cancel it"):
                await journal.delete(batch.ordinal)
            await journal.set_state(batch.ordinal, BatchState.COMPLETED)
            await journal.delete(batch.ordinal)
            assert await journal.get("b", None) is None
            assert (await journal.sizes()) == Sizes(1, 10, 60)
            with pytest.raises(NoSuchBatch):
                await journal.put_results(batch.ordinal, results([0]))
            commits = journal.commits
            await journal.sweep()
            assert journal.commits - commits >= 3  # not in one go
            assert await journal.results_after(batch.ordinal) == []
            assert await journal.unfinished_items(batch.ordinal) == []
            assert len(await journal.unfinished_items(kept.ordinal)) == 10
        if isinstance(place, FolderPlace):
            assert place.file.stat().st_size < 400_000  # the disk has its room again
            assert b"result 4" not in place.file.read_bytes()

    asyncio.run(check())


def test_what_ended_long_ago_is_deleted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            for name in ("old", "older"):
                batch = await queued(journal, 1, name)
                await journal.set_state(batch.ordinal, BatchState.FAILED, reason="why")
            await queued(journal, 1, "open")
            limit = time.time() + 1
            monkeypatch.setattr(time, "time", lambda: limit + 10)
            young = await queued(journal, 1, "young")
            await journal.set_state(young.ordinal, BatchState.CANCELLED)
            assert await journal.delete_ended_before(limit) == 2
            assert await journal.delete_ended_before(limit) == 0
            assert {batch.id for batch in (await journal.list_batches(None)).batches} == {"open", "young"}

    asyncio.run(check())


def test_quotas_say_what_is_used_and_what_is_allowed(place: Place) -> None:
    quotas = Quotas(tenant=Allowance(items=10, batches=2), total=Allowance(bytes=100, batches=3))

    async def check() -> None:
        async with opened(place, quotas) as journal:
            batch = await queued(journal, 8)
            second = await journal.create(new_batch("b2"))
            with pytest.raises(QuotaExceeded, match="tenant t stores 8 items, and 3 more") as refused:
                await journal.append(second.ordinal, items(3))
            assert (refused.value.used, refused.value.asked, refused.value.allowed) == (8, 3, 10)
            await journal.append(second.ordinal, items(2))
            with pytest.raises(QuotaExceeded, match="tenant t stores 2 batches"):
                await journal.create(new_batch("b3"))
            other = await journal.create(new_batch("b3", tenant="other"))
            with pytest.raises(QuotaExceeded, match="all tenants together store 60 bytes, and 60 more"):
                await journal.append(other.ordinal, items(10))
            with pytest.raises(QuotaExceeded, match="all tenants together store 3 batches"):
                await journal.create(new_batch("b4", tenant="third"))
            await journal.put_results(batch.ordinal, results(range(8)))  # a result is never refused
            assert (await journal.sizes("t")) == Sizes(2, 10, 124)
            await journal.delete(second.ordinal)
            await journal.create(new_batch("b5"))

    asyncio.run(check())


def test_usage_is_summed_by_tenant_and_day(place: Place) -> None:
    async def check() -> None:
        async with opened(place) as journal:
            for _ in range(2):
                await journal.add_usage(DayUsage("t", "2026-11-26", 1, 10, 100, 1000))
            await journal.add_usage(DayUsage("u", "2026-11-27", 1, 1, 1, 1))
            assert await journal.usage("t", "2026-11-26", "2026-11-27") == [
                DayUsage("t", "2026-11-26", 2, 20, 200, 2000)
            ]
            assert [day.tenant for day in await journal.usage(None, "2026-11-26", "2026-11-27")] == ["t", "u"]
            assert await journal.usage(None, "2026-11-28", "2026-12-01") == []

    asyncio.run(check())
