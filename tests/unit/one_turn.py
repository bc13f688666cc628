"""Runs what wants a turn of the event loop, with nobody else there."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from app.batches.turnstile import Turn, Turnstile

Answer = TypeVar("Answer")


def in_one_turn(work: Callable[[Turn], Awaitable[Answer]]) -> Answer:
    async def run() -> Answer:
        async with Turnstile().turn() as turn:
            return await work(turn)

    return asyncio.run(run())
