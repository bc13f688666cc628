"""The space of all spools together: who waits for it, and who would wait for ever."""

import asyncio
from pathlib import Path

import pytest

from app.batches.spool import Spool
from app.batches.spool_space import MIN_SEGMENT_BYTES, SpoolAccount, SpoolSpace
from app.errors import TooLarge, TryLater

LIMIT = 10 * MIN_SEGMENT_BYTES


async def waiting(*tasks: "asyncio.Task[int]") -> None:
    """Gives them turns enough to begin to wait."""
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


@pytest.fixture
def space(tmp_path: Path) -> SpoolSpace:
    return SpoolSpace(LIMIT, tmp_path)


def test_a_body_waits_until_its_items_have_been_taken(space: SpoolSpace) -> None:
    async def play() -> None:
        spool = Spool(space.open())
        bodies = [b"x" * MIN_SEGMENT_BYTES]
        for _ in range(10):
            await spool.append(bodies)
        more = asyncio.create_task(spool.append(bodies))
        await waiting(more)
        await spool.window(-1, 1, 1)
        await waiting(more)  # it was read, and nobody has said that it was taken
        await spool.window(0, 1, 1)
        assert await more == 10
        assert space.total == LIMIT
        spool.close()

    asyncio.run(play())


def test_who_waits_has_his_turn_and_one_that_gives_up_holds_up_nobody(space: SpoolSpace) -> None:
    async def play() -> None:
        first, second, third = space.open(), space.open(), space.open()
        await first.take(LIMIT)
        large = asyncio.create_task(_taken(second, LIMIT))
        small = asyncio.create_task(_taken(third, 1))
        await waiting(large, small)
        first.give_back_items(100)
        await waiting(large, small)  # the small one does not overtake
        large.cancel()
        assert await small == 1
        assert space.total == LIMIT - 99
        first.close()
        first.close()
        assert space.total == 1

    asyncio.run(play())


async def _taken(account: SpoolAccount, size: int) -> int:
    await account.take(size)
    return size


def test_results_that_nobody_reads_while_the_body_comes_leave_it_no_room_in_the_end(space: SpoolSpace) -> None:
    """Its client reads when it has sent everything, and could not: it would wait for ever."""

    async def play() -> None:
        account = space.open()
        account.add_results(LIMIT)
        with pytest.raises(TooLarge, match="--max-spool-bytes") as refused:
            await account.take(1)
        assert refused.value.code == "body_too_large"

    asyncio.run(play())


def test_results_of_a_body_that_has_come_will_be_read(space: SpoolSpace) -> None:
    async def play() -> None:
        other, account = space.open(), space.open()
        other.add_results(LIMIT)
        other.end_body()
        more = asyncio.create_task(_taken(account, 1))
        await waiting(more)
        other.give_back_results(LIMIT)
        assert await more == 1

    asyncio.run(play())


def test_when_nobody_will_free_anything_one_is_refused_and_the_others_go_on(space: SpoolSpace) -> None:
    async def play() -> None:
        accounts = [space.open() for _ in range(3)]
        await accounts[0].take(1)
        for account in accounts[1:]:
            account.add_results(LIMIT // 2)
        tasks = [asyncio.create_task(_taken(account, 2)) for account in accounts[1:]]
        await waiting(*tasks)
        accounts[0].close()  # it had the only items
        with pytest.raises(TryLater) as refused:
            await tasks[0]
        assert (refused.value.status, refused.value.code) == (503, "spool_full")
        await waiting(tasks[1])
        accounts[1].close()
        assert await tasks[1] == 2

    asyncio.run(play())
