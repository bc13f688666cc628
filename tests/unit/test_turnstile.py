"""Many that have long work to do hold the event loop no longer than one of them."""

import asyncio
import time

from app.batches.turnstile import TURN_S, Turnstile


def busy(seconds: float) -> None:
    """Uses that much CPU time: what other processes take of a wall clock says nothing here."""
    ends = time.thread_time() + seconds
    while time.thread_time() < ends:
        pass


async def work(turnstile: Turnstile, pieces: int) -> None:
    await turnstile.enter()
    for _ in range(pieces):
        busy(0.001)
        await turnstile.pause_when_over()


def test_a_turn_is_short() -> None:
    assert TURN_S <= 0.01


def test_fifty_hold_the_loop_no_longer_than_one() -> None:
    async def longest_wait() -> float:
        turnstile = Turnstile()
        tasks = [asyncio.create_task(work(turnstile, 12)) for _ in range(50)]
        longest = 0.0
        while not all(task.done() for task in tasks):
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)
        return longest

    assert asyncio.run(longest_wait()) < 20 * TURN_S  # and not 50 of them


def test_a_short_one_does_not_wait_for_the_end_of_long_ones() -> None:
    async def order() -> list[str]:
        turnstile, ended = Turnstile(), []

        async def one(name: str, pieces: int) -> None:
            await work(turnstile, pieces)
            ended.append(name)

        await asyncio.gather(one("long", 60), one("long", 60), one("short", 1))
        return ended

    assert asyncio.run(order()) == ["short", "long", "long"]


def test_who_is_cancelled_is_not_waited_for() -> None:
    async def play() -> None:
        turnstile = Turnstile()
        tasks = [asyncio.create_task(work(turnstile, 1000)) for _ in range(100)]
        await asyncio.sleep(0.02)
        for task in tasks:  # most of them wait for their turn
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(60):
            await work(turnstile, 10)

    asyncio.run(play())


def test_all_that_is_short_and_comes_at_once_goes_through_in_few_passes() -> None:
    async def passes() -> int:
        turnstile, count = Turnstile(), 0
        await turnstile.enter()
        busy(2 * TURN_S)
        tasks = [asyncio.create_task(turnstile.enter()) for _ in range(320)]  # this pass has had its share
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            count += 1
        return count

    assert asyncio.run(passes()) < 40
