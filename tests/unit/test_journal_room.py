"""The bound on what waits for the journal."""

import asyncio

from app.journal.room import Room


def test_whoever_finds_it_full_waits_for_his_turn() -> None:
    async def check() -> None:
        room = Room(2, 10)
        await room.take(6)
        large = asyncio.ensure_future(room.take(8))
        small = asyncio.ensure_future(room.take(1))
        await asyncio.sleep(0)
        assert not large.done() and not small.done()  # the small one would fit, and does not overtake
        room.give(6)
        await large
        await small
        third = asyncio.ensure_future(room.take(0))
        await asyncio.sleep(0)
        assert not third.done()  # two are in
        room.give(8)
        await third

    asyncio.run(check())


def test_whoever_leaves_takes_nothing_along() -> None:
    async def check() -> None:
        room = Room(5, 10)
        await room.take(6)
        large = asyncio.ensure_future(room.take(8))
        small = asyncio.ensure_future(room.take(4))
        await asyncio.sleep(0)
        large.cancel()
        await small
        waiting = asyncio.ensure_future(room.take(10))
        await asyncio.sleep(0)
        room.give(6)
        room.give(4)
        waiting.cancel()  # let in, and gone before it noticed
        await asyncio.gather(waiting, return_exceptions=True)
        await room.take(10)

    asyncio.run(check())
