"""The deadlines of bodies that are being read, when the service ends."""

import asyncio

import pytest

from app.batches.reading import BodyReads


def test_a_deadline_that_is_over_in_this_very_moment_does_not_stop_an_end() -> None:
    """Its reader has not run yet, and others still have to be told."""

    async def play() -> None:
        loop = asyncio.get_running_loop()
        reads = BodyReads()
        ended: list[str] = []

        async def read(name: str, when: float) -> None:
            with pytest.raises(TimeoutError):
                async with reads.until(when):
                    await asyncio.Event().wait()
            ended.append(name)

        readers = [asyncio.create_task(read("late", loop.time() + 0.01)), asyncio.create_task(read("patient", 1e9))]
        await asyncio.sleep(0)
        loop.call_at(loop.time() + 0.01, reads.end)  # in the pass in which the first deadline fires
        await asyncio.wait_for(asyncio.gather(*readers), 60)
        assert sorted(ended) == ["late", "patient"]

    asyncio.run(play())
