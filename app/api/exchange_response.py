"""The answer to an exchange: whole, or as it comes. Its bytes are the engine's application's; only refusals are put
into the words of OpenAI's clients.

A stream's status is sent with its first byte, so that a refusal has a status of its own. Only a client that has waited
for a while is sent a comment, which keeps it and the proxies before it waiting; what goes wrong then is an event.
"""

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.errors import answer, event
from app.api.leaving import Leaving, leaving_of
from app.api.silence import Silence
from app.batches.memory import Holding
from app.batches.one_line import escape_wide_line_ends
from app.errors import RequestError
from app.exchanges.exchange import Ending
from app.exchanges.refusals import refusal_of_answer, refusal_of_item
from app.exchanges.service import BegunExchange
from engines.contract.exchanges import AnswerHead

STREAM = AnswerHead(200, "text/event-stream; charset=utf-8")
COMMENT = b": waiting\n\n"


class ExchangeResponse(Response):
    """Sends the answer; a client that goes away ends the exchange."""

    def __init__(self, exchange: BegunExchange, holding: Holding, keepalive_s: float) -> None:
        super().__init__()
        self._exchange = exchange
        self._answer = exchange.answer
        self._holding = holding
        self._keepalive_s = keepalive_s
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Until all is sent, or the client is gone."""
        leaving = leaving_of(scope)
        leaving.when_gone(self._answer.news.set)
        try:
            with Silence(self._keepalive_s if self._exchange.streams else None, self._answer.news) as silence:
                await self._send_answer(leaving, silence, scope, receive, send)
        finally:
            self._exchange.cancel()
            self._holding.close()
            leaving.forget(self._answer.news.set)

    async def _send_answer(
        self, leaving: Leaving, silence: Silence, scope: Scope, receive: Receive, send: Send
    ) -> None:
        answer = self._answer
        while True:
            await answer.news.next()
            if leaving.is_gone:
                return
            body = answer.take()
            ending = answer.ending
            if body:
                await self._send_part(send, body)
                answer.taken(len(body))
                silence.broken()
            if ending is not None:
                await self._send_ending(ending, scope, receive, send)
                return
            if silence.is_long:
                await self._send_part(send, COMMENT)
                silence.broken()

    async def _send_part(self, send: Send, body: bytes) -> None:
        if not self._has_begun:
            await self._begin(send, self._answer.head or STREAM)
        await send({"type": "http.response.body", "body": escape_wide_line_ends(body), "more_body": True})

    async def _send_ending(self, ending: Ending, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(ending)
        if refusal is not None and not self._has_begun:
            await answer(refusal, scope)(scope, receive, send)
            return
        if refusal is not None:
            await self._send_last(send, event(refusal, scope))
            return
        if not self._has_begun:
            await self._begin(send, ending.head or STREAM, length=len(ending.body))
        await self._send_last(send, ending.body)

    async def _begin(self, send: Send, head: AnswerHead, length: int | None = None) -> None:
        self._has_begun = True
        headers = [(b"content-type", head.content_type.encode("latin-1"))]
        if head.metadata:
            headers.append((b"metadata", head.metadata.encode("latin-1")))
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        else:
            headers.append((b"cache-control", b"no-cache"))
        await send({"type": "http.response.start", "status": head.status, "headers": headers})

    async def _send_last(self, send: Send, body: bytes) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": False})


def _refusal(ending: Ending) -> RequestError | None:
    """Why there is no answer, or none that was asked for."""
    if ending.error is not None:
        return refusal_of_item(ending.error)
    if ending.head is not None and ending.is_refusal:
        return refusal_of_answer(ending.head.status, ending.body)
    return None
