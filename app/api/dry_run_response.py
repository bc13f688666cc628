"""The answer to a dry run: one JSON object when all items are counted, or the error that says why they are not.

Nothing is sent before that. A client that goes away ends its dry run.
"""

from collections.abc import Coroutine
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.attached_response import pieces
from app.api.leaving import unless_gone
from app.batches.dry_run import DryRun
from app.batches.memory import Holding

_encode = msgspec.json.Encoder().encode


class DryRunResponse(Response):
    """Does the work of a dry run, and sends what came of it. Raises what the work raises."""

    media_type = "application/json"

    def __init__(self, work: Coroutine[Any, Any, DryRun], holding: Holding) -> None:  # Any: a coroutine is sent nothing
        super().__init__()
        del self.headers["content-length"]
        self._work = work
        self._holding = holding

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer, unless the client has gone before."""
        try:
            done = await unless_gone(self._work, scope, "dry run")
            if done is not None:
                await self._send(_encode(done), send)
        finally:
            self._holding.close()

    async def _send(self, body: bytes, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        for piece in pieces((body,)):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
