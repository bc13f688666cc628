"""One exchange inside a rank, whatever the application makes of it. vLLM's application is played."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from engines import tasks
from engines.contract.exchanges import STREAM_WINDOW_BYTES, AnswerHead, Exchange, ExchangeHead
from engines.contract.protocol import Chunk, Outcome, Result
from engines.rank.engine import EngineLoad
from engines.vllm_engine.exchanges.call import Application, Call, Message

JSON, EVENTS = "application/json", "text/event-stream"
EVENT, DONE = b'data: {"choices":[]}\n\n', b"data: [DONE]\n\n"
ERROR_EVENT = b'data: {"error": {"message": "too many", "type": "BadRequestError", "param": "n", "code": 400}}\n\n'
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Bench:
    """A call, and what has come of it."""

    def __init__(self, *, streams: bool) -> None:
        self.chunks: list[Chunk] = []
        self.load = EngineLoad()
        head = ExchangeHead(Exchange.COMPLETIONS, "req-1", streams)
        self.call = Call(7, head, b'{"prompt": "x"}', self.chunks.append, self.load, {})

    @property
    def body(self) -> bytes:
        return b"".join(chunk.body for chunk in self.chunks)

    async def turns(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(scenario(), 10)

    asyncio.run(limited())


def answer(application: Application, prepare: Callable[[Call], None] = lambda _: None, **options: bool) -> Any:
    """The bench after its call, and the result."""
    bench = Bench(**options)
    prepare(bench.call)
    return bench, asyncio.run(bench.call.run(application))


async def begin(send: Send, content_type: str, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", content_type.encode())]})


async def put(send: Send, *bodies: bytes) -> None:
    for body in bodies:
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def saying(*bodies: bytes, content_type: str = EVENTS, status: int = 200, then: Exception | None = None) -> Application:
    """Answers so, and raises in the end."""

    async def application(_: dict[str, Any], __: Receive, send: Send) -> None:
        await begin(send, content_type, status)
        await put(send, *bodies)
        if then is not None:
            raise then

    return application


def generating(call: Call) -> None:
    """The engine has put something out."""
    call.has_output = True


def test_the_application_gets_the_request_and_its_id() -> None:
    seen: dict[str, Any] = {}

    async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        seen.update(scope, message=await receive())
        await begin(send, JSON)
        await put(send, b"{}")

    answer(application, streams=False)
    assert (seen["method"], seen["path"]) == ("POST", "/v1/completions")
    assert dict(seen["headers"])[b"x-request-id"] == b"req-1"
    assert seen["message"]["body"] == b'{"prompt": "x"}'


def test_what_does_not_stream_is_collected() -> None:
    bench, result = answer(saying(b'{"a":', b"1}", content_type=JSON), streams=False)
    assert (result.outcome, result.outputs, result.head) == (Outcome.OK, b'{"a":1}', AnswerHead(200, JSON))
    assert bench.chunks == []


def test_a_refusal_of_a_stream_is_an_answer_at_once() -> None:
    bench, result = answer(saying(b'{"error":{}}', content_type=JSON, status=404), streams=True)
    assert (result.outputs, result.head) == (b'{"error":{}}', AnswerHead(404, JSON))
    assert bench.chunks == []


def test_a_stream_comes_in_chunks_with_its_head_in_the_first() -> None:
    bench, result = answer(saying(EVENT, EVENT, DONE), generating, streams=True)
    assert [chunk.body for chunk in bench.chunks] == [EVENT, EVENT, DONE]
    assert [chunk.head for chunk in bench.chunks] == [AnswerHead(200, EVENTS), None, None]
    assert (result.outcome, result.head, result.outputs) == (Outcome.OK, None, b"")


def test_nothing_goes_out_before_the_engine_has_put_something_out() -> None:
    """What is lost or refused by then needs no broken stream."""

    async def scenario() -> None:
        bench = Bench(streams=True)
        go_on = asyncio.Event()

        async def application(_: dict[str, Any], __: Receive, send: Send) -> None:
            await begin(send, EVENTS)
            await send({"type": "http.response.body", "body": b"event: created\n\n", "more_body": True})
            await go_on.wait()
            bench.call.has_output = True
            await put(send, EVENT)

        running = tasks.awaited(bench.call.run(application), "run")
        await bench.turns()
        assert bench.chunks == []
        go_on.set()
        await running
        assert [chunk.body for chunk in bench.chunks] == [b"event: created\n\n" + EVENT]

    play(scenario)


def test_a_stream_without_output_of_the_engine_goes_out_in_the_end() -> None:
    bench, result = answer(saying(EVENT, DONE), streams=True)
    assert (bench.body, result.outcome) == (EVENT + DONE, Outcome.OK)


def test_an_error_before_the_first_byte_has_its_status() -> None:
    """vLLM says [DONE] after it all the same."""
    bench, result = answer(saying(ERROR_EVENT, DONE), streams=True)
    assert bench.chunks == []
    assert (result.outcome, result.head) == (Outcome.OK, AnswerHead(400, JSON))
    assert result.outputs == b'{"error":{"message":"too many","type":"BadRequestError","param":"n","code":400}}'


def test_an_error_in_the_midst_is_an_event_as_openai_has_it() -> None:
    bench, result = answer(saying(EVENT, ERROR_EVENT, DONE), generating, streams=True)
    assert bench.chunks[1].body.startswith(b'data: {"error":{"message":"too many"')
    assert b'"code":null' in bench.chunks[1].body
    assert (result.outcome, bench.chunks[2].body) == (Outcome.OK, DONE)


@pytest.mark.parametrize("said", [(), (b"event: created\n\n", b'event: error\ndata: {"error": "something"}\n\n')])
def test_a_refusal_by_the_engine_is_the_answer_whatever_the_application_makes_of_it(said: tuple[bytes, ...]) -> None:
    class Blamed(ValueError):
        parameter = "seed"

    def refuse(call: Call) -> None:
        call.refuse(Blamed("too large"))

    bench, result = answer(saying(*said, then=RuntimeError("broken off")), refuse, streams=True)
    assert (bench.chunks, result.head) == ([], AnswerHead(400, JSON))
    assert b'"message":"too large","type":"BadRequestError","param":"seed"' in result.outputs


def test_an_application_that_raises_has_answered_if_it_has() -> None:
    failure = RuntimeError("out of order")
    _, result = answer(saying(b'{"error":{}}', content_type=JSON, status=500, then=failure), streams=False)
    assert (result.outcome, result.head.status) == (Outcome.OK, 500)


@pytest.mark.parametrize("bodies", [(), (EVENT,)])
def test_a_stream_whose_application_raises_has_failed(bodies: tuple[bytes, ...]) -> None:
    _, result = answer(saying(*bodies, then=RuntimeError("out of order")), generating, streams=True)
    assert (result.outcome, result.error.message) == (Outcome.ERROR, "RuntimeError: out of order")


def test_an_application_that_says_nothing_has_failed() -> None:
    async def application(*_: Any) -> None:
        pass

    _, result = answer(application, streams=False)
    assert (result.outcome, result.error.code) == (Outcome.ERROR, "engine_error")


def test_a_stream_stops_at_its_window_until_it_is_taken() -> None:
    async def scenario() -> None:
        bench = Bench(streams=True)
        bench.call.has_output = True
        part, count = b"x" * (STREAM_WINDOW_BYTES // 4), 10
        running = tasks.awaited(bench.call.run(saying(*[part] * count)), "run")
        await bench.turns()
        assert (len(bench.chunks), bench.load.awaiting) == (4, 1)
        bench.call.take(1)
        await bench.turns()
        assert (len(bench.chunks), bench.load.awaiting) == (5, 1)
        bench.call.take(2 * len(part))
        await bench.turns()
        assert len(bench.chunks) == 7
        bench.call.take(STREAM_WINDOW_BYTES)
        assert (await running).outcome is Outcome.OK
        assert (len(bench.chunks), bench.load.awaiting) == (count, 0)

    play(scenario)


def stopping(send_last: Callable[[Send], Awaitable[None]]) -> Application:
    """Works until its client goes."""

    async def application(_: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        message = await receive()
        assert message["type"] == "http.disconnect"
        await send_last(send)

    return application


def test_a_client_that_goes_is_heard_of_and_gets_no_answer_any_more() -> None:
    """vLLM says null to it."""

    async def say_null(send: Send) -> None:
        await begin(send, JSON)
        await put(send, b"null")

    async def scenario() -> None:
        for streams in (False, True):
            bench = Bench(streams=streams)
            running = tasks.awaited(bench.call.run(stopping(say_null)), "run")
            await bench.turns()
            bench.call.disconnect()
            result: Result = await running
            assert (result.outcome, result.outputs, bench.chunks) == (Outcome.ABORTED, b"", [])

    play(scenario)


@pytest.mark.parametrize("streams", [False, True])
def test_what_the_engine_gave_up_is_lost_whatever_the_application_says(streams: bool) -> None:
    """A truncated answer, or an error of the server."""

    def lose(call: Call) -> None:
        call.lose(engine_died="its core is gone")
        call.lose()

    said = saying(b'{"finish_reason":"abort"}', content_type=EVENTS if streams else JSON, then=RuntimeError())
    bench, result = answer(said, lose, streams=streams)
    assert (result.outcome, result.outputs, bench.chunks) == (Outcome.LOST, b"", [])
    assert bench.call.engine_died == "its core is gone"


def test_what_is_turned_away_may_come_again() -> None:
    _, result = answer(
        saying(b'{"error":{}}', content_type=JSON, status=500), lambda call: call.turn_away("busy"), streams=False
    )
    assert (result.outcome, result.error.message, result.error.code.retryable) == (Outcome.ERROR, "busy", True)


def test_what_the_application_cannot_even_read_is_the_requests_fault() -> None:
    """It stumbles, and says 500, before it has asked the engine for anything."""
    stumbling = saying(b'{"error":{}}', content_type=JSON, status=500, then=AttributeError("'int' has no 'get'"))
    _, result = answer(stumbling, streams=False)
    assert (result.outcome, result.head.status) == (Outcome.OK, 400)
    assert b"cannot be read: AttributeError: 'int' has no 'get'" in result.outputs
