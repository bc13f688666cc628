"""Who hears that a client has gone, and when."""

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest

from app.api.leaving import LEAVING, Leaving, unless_gone


def scope_of(leaving: Leaving) -> dict[str, Any]:
    return {LEAVING: leaving}


def test_everybody_hears_it_once_but_for_those_who_need_not() -> None:
    async def scenario() -> None:
        leaving, heard = Leaving(), []
        first, second, third = (lambda: heard.append(1)), (lambda: heard.append(2)), (lambda: heard.append(3))
        for call in (first, second, third):
            leaving.when_gone(call)
        leaving.forget(second)
        leaving.tell()
        leaving.tell()
        assert leaving.is_gone and heard == [], "from the event loop, not in the middle of what the server does"
        await asyncio.sleep(0)
        assert heard == [1, 3]

    asyncio.run(scenario())


def test_it_is_told_as_from_where_it_was_asked_for() -> None:
    request: ContextVar[str] = ContextVar("request")

    async def scenario() -> None:
        leaving, heard = Leaving(), []
        request.set("its own")
        leaving.when_gone(lambda: heard.append(request.get()))
        request.set("another's")
        leaving.tell()
        await asyncio.sleep(0)
        assert heard == ["its own"]

    asyncio.run(scenario())


def test_who_comes_late_hears_it_too() -> None:
    async def scenario() -> None:
        leaving, heard = Leaving(), []
        leaving.tell()
        leaving.when_gone(lambda: heard.append(1))
        await asyncio.sleep(0)
        assert heard == [1]

    asyncio.run(scenario())


@pytest.mark.parametrize("is_gone_before", [True, False])
def test_work_ends_with_its_client(is_gone_before: bool) -> None:
    async def scenario() -> None:
        leaving, ended = Leaving(), []

        async def work() -> int:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(True)
            return 1

        asyncio.get_running_loop().call_soon(leaving.tell) if not is_gone_before else leaving.tell()
        assert await unless_gone(work(), scope_of(leaving), "work") is None
        assert ended == [True]

    asyncio.run(scenario())


def test_work_that_is_done_or_fails_says_so() -> None:
    async def scenario() -> None:
        async def fails() -> None:
            raise ValueError("of its own")

        async def works() -> int:
            return 7

        leaving = Leaving()
        assert await unless_gone(works(), scope_of(leaving), "work") == 7
        with pytest.raises(ValueError, match="of its own"):
            await unless_gone(fails(), scope_of(leaving), "work")
        leaving.tell()  # nobody is left to hear it
        await asyncio.sleep(0)

    asyncio.run(scenario())


def test_whoever_waits_for_the_work_can_be_cancelled() -> None:
    async def scenario() -> None:
        async def work() -> None:
            await asyncio.sleep(60)

        waiting = asyncio.create_task(unless_gone(work(), scope_of(Leaving()), "work"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(scenario())
