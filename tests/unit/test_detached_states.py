"""Which settings a stored batch depends on, whose turn it is, and what becomes of a batch whose step is overtaken."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from app.batches.detached.answer_settings import answer_settings, difference
from app.batches.detached.running import Ending, OpenBatch
from app.batches.detached.turns import MAX_RUNNING, BatchTurns, lane_of
from app.journal.records import Counts, StoredBatch, TokenUsage
from app.journal.states import BatchState
from app.settings.declaration import Settings


def stored(ordinal: int, **fields: Any) -> StoredBatch:
    known: dict[str, Any] = dict.fromkeys(StoredBatch.__struct_fields__)
    known |= {"ordinal": ordinal, "id": f"batchgen-{ordinal}", "tenant": "t", "priority": 0, "last_seq": 0}
    known |= {"state": BatchState.QUEUED, "counts": Counts(), "usage": TokenUsage(), "restarts_without_result": 0}
    return StoredBatch(**known | fields)


def fail(what: str, error: BaseException) -> None:
    raise AssertionError(what) from error


# ---------------------------------------------------------------- settings


def settings(**fields: Any) -> bytes:
    return answer_settings(Settings(**{"engine": "simulated"} | fields))


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        ({"default_max_tokens": 5}, {"default_max_tokens": 6}, "default_max_tokens was 5 and is 6"),
        ({}, {"seed": 7}, "seed was unset and is 7"),
        ({"engine_args": {"chat_template": "a"}}, {}, 'chat_template was "a" and is unset'),
    ],
)
def test_settings_that_change_answers_are_named_with_both_values(then: Any, now: Any, said: str) -> None:
    assert said in (difference(settings(**then), settings(**now)) or "")


def test_settings_that_make_it_faster_or_larger_hold_nothing() -> None:
    assert difference(settings(), settings(dp_size=4, prefetch=3, engine_args={"max_num_seqs": 7})) is None


def test_a_setting_that_an_older_version_did_not_know_and_is_unset_is_no_difference() -> None:
    known = msgspec.json.decode(settings())
    del known["quantization"]
    assert difference(msgspec.json.encode(known), settings()) is None


# ---------------------------------------------------------------- turns


def test_a_limited_number_of_a_lane_runs_the_oldest_first() -> None:
    turns = BatchTurns()
    batches = [OpenBatch(stored(ordinal)) for ordinal in range(MAX_RUNNING + 2)]
    other = OpenBatch(stored(99, tenant="other"))
    for batch in [*reversed(batches), other]:
        turns.wait(batch)
    lane = lane_of(batches[0])
    assert [turns.begin_next(lane) for _ in range(MAX_RUNNING)] == list(range(MAX_RUNNING))
    assert turns.begin_next(lane) is None
    assert turns.begin_next(lane_of(other)) == 99, "another lane has places of its own"
    turns.end(lane)
    assert turns.begin_next(lane) == MAX_RUNNING and turns.begin_next(lane) is None


def test_priorities_do_not_wait_for_each_other() -> None:
    turns = BatchTurns()
    low, high = OpenBatch(stored(1, priority=0)), OpenBatch(stored(2, priority=5))
    for batch in (low, high):
        turns.wait(batch)
    assert (turns.begin_next(lane_of(high)), turns.begin_next(lane_of(low))) == (2, 1)


# ---------------------------------------------------------------- time


def in_loop(check: Callable[[], Any]) -> None:
    async def run() -> None:
        await check()

    asyncio.run(run())


def test_a_batch_is_overdue_at_its_deadline_and_says_so_once() -> None:
    async def check() -> None:
        heard: asyncio.Queue[Ending] = asyncio.Queue()
        batch = OpenBatch(stored(1, deadline_at=time.time() + 0.02))
        batch.watch_clock(heard.put_nowait, fail)
        ending = await asyncio.wait_for(heard.get(), 10)
        assert (ending.state, ending.reason) == (BatchState.EXPIRED, "its timeout_s is over")
        assert batch.overdue is ending

    in_loop(check)


def test_a_batch_that_has_begun_does_not_expire() -> None:
    async def check() -> None:
        heard: list[Ending] = []
        begun = OpenBatch(stored(1, expires_at=time.time() - 5, started_at=time.time() - 9))
        begun.watch_clock(heard.append, fail)
        unbegun = OpenBatch(stored(2, expires_at=time.time() - 5))
        forgotten = OpenBatch(stored(3, deadline_at=time.time() - 5))
        for batch in (unbegun, forgotten):
            batch.watch_clock(heard.append, fail)
        forgotten.forget_timers()
        await asyncio.sleep(0.02)
        assert heard == [unbegun.overdue]

    in_loop(check)


def test_whoever_waits_for_news_gets_the_next_and_only_the_first_ending_counts() -> None:
    async def check() -> None:
        batch = OpenBatch(stored(1))
        news = batch.news
        batch.tell()
        assert news.is_set() and not batch.news.is_set()
        assert not batch.stop(Ending(BatchState.HELD)), "it does not run"
        batch.end = asyncio.get_running_loop().create_future()
        assert batch.stop(Ending(BatchState.HELD)) and batch.stop(Ending(BatchState.QUEUED))
        assert batch.end.result().state is BatchState.HELD

    in_loop(check)
