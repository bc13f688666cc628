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

        soon = loop.time() + 0.05
        readers = [asyncio.create_task(read("late", soon)), asyncio.create_task(read("patient", soon + 1e6))]
        await asyncio.sleep(0)
        failed: list[BaseException] = []
        loop.set_exception_handler(lambda _, context: failed.append(context["exception"]))
        loop.call_at(soon, reads.end)  # right behind the first deadline, in the same pass of the loop
        await asyncio.wait_for(asyncio.gather(*readers), 60)
        assert not failed
        assert sorted(ended) == ["late", "patient"]

    asyncio.run(play())
