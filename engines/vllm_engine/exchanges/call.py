"""One exchange: a call of vLLM's application over ASGI, without a server between the two."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import msgspec

from engines import logs
from engines.contract.exchanges import STREAM_WINDOW_BYTES, AnswerHead, ExchangeHead
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import Chunk, Outcome, Result
from engines.rank.engine import EngineLoad
from engines.vllm_engine import compat
from engines.vllm_engine.exchanges.usage import CallUsage, RequestUsage

Message = MutableMapping[str, Any]
Application = Callable[[dict[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Any]
logger = logs.get_logger(logs.RANK_LOGGER)
EVENT = b"data: "
ERROR_EVENT = b'data: {"error"'  # how vLLM says that a stream has failed
# What checks of vLLM's raise by mistake, over the values that they were made for: before the engine is asked at all.
STUMBLES = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
NO_ANSWER = ItemError(ItemErrorCode.ENGINE_ERROR, "vLLM's application ended without an answer")
LOST = ItemError(ItemErrorCode.ENGINE_ERROR, "the engine gave the request up, and nobody had asked for it")


class ErrorFields(msgspec.Struct):
    """What vLLM says of an error. Its code is the status."""

    message: str = ""
    type: str = ""
    param: str | None = None
    code: int | str | None = None


class ErrorBody(msgspec.Struct):
    """The body of a refusal, and a failed stream's last event."""

    error: ErrorFields


_decode_error = msgspec.json.Decoder(ErrorBody).decode
_encode = msgspec.json.Encoder().encode


class Call:
    """Its answer's bytes go out as chunks, if it streams, or with its result."""

    def __init__(
        self,
        attempt: int,
        head: ExchangeHead,
        body: bytes,
        emit: Callable[[Chunk], None],
        load: EngineLoad,
        trace: dict[str, Any],  # Any: keyword arguments of AsyncLLM.generate
    ) -> None:
        self.attempt = attempt
        self.trace_context = trace  # for the engine's requests
        self.engine_died: str | None = None
        self.has_output = False  # the engine has put something out for it
        self._head = head
        self._body: bytes | None = body  # until it has been read
        self._emit = emit
        self._load = load
        self._usage = CallUsage()
        self._is_lost = False
        self._turned_away: ItemError | None = None
        self._refusal: ErrorBody | None = None
        self._is_unwanted = False
        self._gone = asyncio.Event()
        self._room = asyncio.Event()
        self._untaken = 0  # bytes of the stream that went out and that nobody has taken
        self._answer: AnswerHead | None = None  # as the application has begun it
        self._has_begun = False  # the first chunk is out
        self._collected: list[bytes] = []  # of an answer at once; of a stream, what came before the engine's output

    # -- from the rank

    async def run(self, application: Application) -> Result:
        """Its result. It means nothing when the engine has died with it."""
        failure: Exception | None = None
        try:
            await application(self._scope(), self._receive, self._send)
        except Exception as error:  # noqa: BLE001  what has an answer all the same is raised here once more
            failure = error
            self._explain(error)
        if self._is_unwanted:
            return self._result(Outcome.ABORTED)
        if self._is_lost:
            return self._result(Outcome.LOST, error=LOST)
        if self._turned_away is not None:
            return self._result(Outcome.ERROR, error=self._turned_away)
        if self._refusal is not None and not self._has_begun:
            return self._refused(self._refusal)
        return self._answered(failure)

    def disconnect(self) -> None:
        """Nobody wants an answer any more: the application hears of a client that has gone, and frees the engine."""
        self._is_unwanted = True
        self._gone.set()

    def take(self, size: int) -> None:
        """So many bytes of the stream have been taken."""
        self._untaken -= size
        if self._untaken < STREAM_WINDOW_BYTES:
            self._room.set()

    # -- from the door

    def usage_of_request(self, *, is_delta: bool) -> RequestUsage:
        """Where one more request to the engine counts its tokens."""
        return self._usage.of_request(is_delta=is_delta)

    def lose(self, engine_died: str | None = None) -> None:
        """The engine gave up a request of it, or died; what the application answers then is nobody's answer."""
        self._is_lost = True
        self.engine_died = self.engine_died or engine_died

    def refuse(self, error: Exception) -> None:
        """The request is at fault. A stream that has not begun ends with this, whatever the application makes of it."""
        message, param = compat.shortened(error, with_type=False), getattr(error, "parameter", None)
        self._refusal = ErrorBody(ErrorFields(message, "BadRequestError", param, 400))

    def turn_away(self, reason: str) -> None:
        """The request is well, and cannot be run now, whatever the application makes of that."""
        self._turned_away = ItemError(ItemErrorCode.ENGINE_ERROR, reason)

    # -- ASGI

    def _scope(self) -> dict[str, Any]:
        path, request_id = str(self._head.path), self._head.request_id.encode()
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},  # with 2.4, Starlette's streams ignore a client's going
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (b"host", b"phalanx"),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(self._body or b"")).encode()),
                (b"x-request-id", request_id),
            ],
            "client": None,
            "server": ("phalanx", 80),
            "state": {},
        }

    async def _receive(self) -> Message:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._is_unwanted or self._is_lost:
            return  # what comes now is about a client that has gone, or about an engine that has
        if message["type"] == "http.response.start":
            headers = dict(message["headers"])
            content_type = headers.get(b"content-type", b"application/json").decode("latin-1")
            self._answer = AnswerHead(message["status"], content_type, headers.get(b"metadata", b"").decode("latin-1"))
            return
        body = message.get("body", b"")
        if not body:
            return
        if self._is_stream:
            await self._send_chunk(body)
        else:
            self._collected.append(body)

    @property
    def _is_stream(self) -> bool:
        """Whether the answer is one: one that was asked for as a stream may be a refusal."""
        answer = self._answer
        return self._head.streams and answer is not None and answer.content_type.startswith("text/event-stream")

    async def _send_chunk(self, body: bytes) -> None:
        if self._refusal is not None and not self._has_begun:
            return  # vLLM says more all the same
        if body.startswith(ERROR_EVENT):
            error = _decode_error(body[len(EVENT) :])
            if not self._has_begun:
                self._refusal = error
                return
            body = EVENT + _encode(_as_openai_has_it(error)) + b"\n\n"
        if not self.has_output:
            self._collected.append(body)  # some streams begin before it is known whether the engine takes the request
            return
        if self._untaken >= STREAM_WINDOW_BYTES:
            with self._awaiting():
                while self._untaken >= STREAM_WINDOW_BYTES:
                    self._room.clear()
                    await self._room.wait()
        self._emit_chunk(body)

    def _emit_chunk(self, body: bytes) -> None:
        body = b"".join([*self._collected, body])
        self._collected.clear()
        self._untaken += len(body)
        self._emit(Chunk(self.attempt, body, None if self._has_begun else self._answer))
        self._has_begun = True

    @contextmanager
    def _awaiting(self) -> Iterator[None]:
        """Inside, its client has to take something before it gets on."""
        self._load.awaiting += 1
        try:
            yield
        finally:
            self._load.awaiting -= 1

    def _explain(self, error: Exception) -> None:
        """An error of the application's own, unless it is known already why the exchange comes to nothing."""
        if self._is_unwanted or self._is_lost or self._turned_away is not None or self._refusal is not None:
            return
        facts = {"attempt": self.attempt, "path": str(self._head.path)}
        if self._usage.is_empty and isinstance(error, STUMBLES):
            why = f"the request cannot be read: {compat.shortened(error)}"
            self._refusal = ErrorBody(ErrorFields(why, "BadRequestError", None, 400))
            logger.info("exchange_unreadable", error=type(error).__name__, **facts)
        else:
            logger.exception("exchange_failed", **facts)

    def _refused(self, error: ErrorBody) -> Result:
        """Nothing has come of it: it can be answered with the status that tells so."""
        status = error.error.code if isinstance(error.error.code, int) else 500
        return self._result(Outcome.OK, outputs=_encode(error), head=AnswerHead(status, "application/json"))

    def _answered(self, failure: Exception | None) -> Result:
        """By the application, if it came as far as that."""
        if self._answer is None or (self._is_stream and failure is not None):
            why = NO_ANSWER if failure is None else ItemError(ItemErrorCode.ENGINE_ERROR, compat.shortened(failure))
            return self._result(Outcome.ERROR, error=why)
        if not self._is_stream:
            return self._result(Outcome.OK, outputs=b"".join(self._collected), head=self._answer)
        if not self._has_begun:
            self._emit_chunk(b"")
        return self._result(Outcome.OK)

    def _result(self, outcome: Outcome, **more: Any) -> Result:  # Any: the fields of a Result
        usage = self._usage
        return Result(
            self.attempt,
            outcome,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            stopped_by_length=usage.stopped_by_length,
            **({"outputs": b""} | more),
        )


def _as_openai_has_it(body: ErrorBody) -> ErrorBody:
    """OpenAI's code is a word; a status in its place breaks its clients' classes."""
    if isinstance(body.error.code, int):
        body.error.code = None
    return body
