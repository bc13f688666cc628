"""Many that have long work to do hold the event loop no longer than one of them."""

import asyncio
import time

import pytest

from app.batches.turnstile import TURN_S, Turn, Turnstile


def busy(seconds: float) -> None:
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        pass


async def work(turn: Turn, pieces: int) -> None:
    for _ in range(pieces):
        busy(0.001)
        await turn.pause_when_over()


def test_a_turn_is_short() -> None:
    assert TURN_S <= 0.01


def test_fifty_hold_the_loop_no_longer_than_one() -> None:
    async def longest_wait() -> float:
        turnstile = Turnstile()

        async def one() -> None:
            async with turnstile.turn() as turn:
                await work(turn, 12)

        tasks = [asyncio.create_task(one()) for _ in range(50)]
        longest = 0.0
        while not all(task.done() for task in tasks):
            began = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - began)
        return longest

    assert asyncio.run(longest_wait()) < 20 * TURN_S  # and not 50 of them


def test_a_short_one_does_not_wait_for_the_end_of_long_ones() -> None:
    async def order() -> list[str]:
        turnstile, ended = Turnstile(), []

        async def one(name: str, pieces: int) -> None:
            async with turnstile.turn() as turn:
                await work(turn, pieces)
            ended.append(name)

        await asyncio.gather(one("long", 60), one("long", 60), one("short", 1))
        return ended

    assert asyncio.run(order()) == ["short", "long", "long"]


def test_who_is_cancelled_or_fails_lets_the_next_one_in() -> None:
    async def play() -> None:
        turnstile = Turnstile()

        async def one() -> None:
            async with turnstile.turn() as turn:
                await work(turn, 1000)

        async def failing() -> None:
            async with turnstile.turn():
                raise ValueError

        tasks = [asyncio.create_task(one()) for _ in range(3)]
        await asyncio.sleep(0.02)
        for task in tasks:  # one has its turn, the others wait for theirs
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(ValueError):
            await failing()
        async with asyncio.timeout(1), turnstile.turn() as turn:
            await turn.pause_when_over()

    asyncio.run(play())
