"""An NDJSON body as a server hands it over: parts of any size, its client's pace, and pauses that are our own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import Request

from app.api.ndjson_body import LINES_AT_ONCE, NdjsonBody, is_ndjson
from app.batches.reading import BodyReads
from app.batches.turnstile import Turnstile
from app.errors import InvalidRequest, TooSlow, WrongMediaType
from app.settings.declaration import Settings

LONG_S = 60.0
Receive = Callable[[], Awaitable[dict[str, Any]]]


def messages(*parts: bytes, is_whole: bool = True) -> Receive:
    """The messages of a server for a body in these parts; if it is not whole, its client goes away."""
    last = {"type": "http.request", "body": b"", "more_body": False} if is_whole else {"type": "http.disconnect"}
    queue = [*({"type": "http.request", "body": part, "more_body": True} for part in parts), last]

    async def receive() -> dict[str, Any]:
        return queue.pop(0)

    return receive


def request(receive: Receive, **headers: str) -> Request:
    given = {"content-type": "application/x-ndjson"} | {name.replace("_", "-"): text for name, text in headers.items()}
    raw = [(name.encode(), text.encode()) for name, text in given.items()]
    return Request({"type": "http", "method": "POST", "headers": raw}, receive)


def body(receive: Receive, reads: BodyReads | None = None, **settings: Any) -> NdjsonBody:
    return NdjsonBody(request(receive), Settings(**settings), reads or BodyReads(), Turnstile())


async def all_of(bodies: AsyncIterator[list[bytes]]) -> list[list[bytes]]:
    return [some async for some in bodies]


def test_the_options_and_then_all_items_some_at_a_time() -> None:
    async def play() -> None:
        lines = [b'"%d"' % number for number in range(3 * LINES_AT_ONCE)]
        text = b'{"object": "batch_generation.options", "priority": 7}\n' + b"\n".join(lines)
        read = body(messages(text[:20], text[20:90], text[90:]))
        assert (await read.options()).priority == 7
        found = await all_of(read.bodies())
        assert [item for some in found for item in some] == lines
        assert max(map(len, found)) == LINES_AT_ONCE

    asyncio.run(play())


def test_no_more_is_read_than_is_asked_for() -> None:
    async def play() -> None:
        asked = 0

        async def receive() -> dict[str, Any]:
            nonlocal asked
            asked += 1
            return {"type": "http.request", "body": b'"a"\n', "more_body": True}

        read = body(receive)
        await read.options()
        bodies = read.bodies()
        await anext(bodies)
        assert asked == 1
        await anext(bodies)
        assert asked == 2

    asyncio.run(play())


@pytest.mark.parametrize("text", [b"", b"\n\n", b'{"object": "batch_generation.options"}\n\n'])
def test_a_body_without_prompts_is_refused_before_anything_begins(text: bytes) -> None:
    with pytest.raises(InvalidRequest, match="no prompts"):
        asyncio.run(body(messages(text)).options())


def test_a_client_that_goes_away_leaves_no_item_of_half_a_line() -> None:
    async def play() -> None:
        read = body(messages(b'"a"\n"b', is_whole=False))
        await read.options()
        found: list[list[bytes]] = []
        with pytest.raises(InvalidRequest) as refused:
            async for bodies in read.bodies():
                found.append(bodies)
        assert (refused.value.code, found) == ("incomplete_body", [[b'"a"']])

    asyncio.run(play())


async def _stalling(read: NdjsonBody) -> TooSlow:
    await read.options()
    with pytest.raises(TooSlow, match="--body-timeout-s") as slow:
        await all_of(read.bodies())
    return slow.value


def _stalls_after(*parts: bytes) -> Receive:
    queue = list(parts)

    async def receive() -> dict[str, Any]:
        if not queue:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": queue.pop(0), "more_body": True}

    return receive


def test_a_body_that_stalls_is_given_up() -> None:
    slow = asyncio.run(_stalling(body(_stalls_after(b'"a"\n', b'"b"\n'), body_timeout_s=0.05)))
    assert slow.code == "slow_body"
    assert slow.message.startswith("8 bytes of the body came in 0 s")


def test_no_time_counts_in_which_nobody_asks() -> None:
    async def play() -> None:
        read = body(messages(b'"a"\n', b'"b"\n'), body_timeout_s=0.2)
        await read.options()
        found = []
        async for bodies in read.bodies():
            found += bodies
            await asyncio.sleep(0.3)
        assert found == [b'"a"', b'"b"']

    asyncio.run(play())


@pytest.mark.parametrize("is_waiting", [True, False])
def test_when_the_service_ends_nobody_waits_for_what_has_not_come(is_waiting: bool) -> None:
    async def play() -> None:
        reads = BodyReads()
        read = body(_stalls_after(b'"a"\n'), reads, body_timeout_s=LONG_S)
        if is_waiting:
            asyncio.get_running_loop().call_later(0.05, reads.end)
        else:  # the body is paused by us, and asked for again later
            reads.end()
        async with asyncio.timeout(LONG_S / 2):
            with pytest.raises(TooSlow):
                await read.options()
                await all_of(read.bodies())

    asyncio.run(play())


def test_a_body_that_is_compressed_is_refused() -> None:
    with pytest.raises(WrongMediaType) as refused:
        NdjsonBody(request(messages(), content_encoding="gzip"), Settings(), BodyReads(), Turnstile())
    assert refused.value.param == "Content-Encoding"


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [("application/x-ndjson", True), ("Application/X-NDJSON; charset=utf-8", True), ("application/json", False)],
)
def test_the_content_type_says_what_it_is(content_type: str, expected: bool) -> None:
    assert is_ndjson(request(messages(), content_type=content_type)) is expected
