"""A body of any length, read part by part: whoever asks for no more of it holds its client back.

Its pace has the limits of any body's, but no time counts in which nobody asks for more.
"""

import asyncio

from starlette.requests import ClientDisconnect, Request

from app.api.body import BodyLimits, Pace, check_encoding, cut_short
from app.batches.reading import BodyReads
from app.settings.declaration import Settings


class BodyParts:
    """Of one request. Raises WrongMediaType when its body is compressed."""

    def __init__(self, request: Request, settings: Settings, reads: BodyReads) -> None:
        check_encoding(request)
        self._parts = request.stream()
        self._pace = Pace(BodyLimits.of(settings))
        self._reads = reads

    async def next(self) -> bytes | None:
        """None when the body has come to its end. Raises TooSlow, and InvalidRequest for one that ends with its
        connection."""
        now = asyncio.get_running_loop().time
        began = now()
        try:
            async with self._reads.until(began + self._pace.spare_s):
                part = await anext(self._parts, None)
        except TimeoutError:
            raise self._pace.too_slow(now() - began) from None
        except ClientDisconnect:
            raise cut_short() from None
        if part is not None:
            self._pace.count(len(part), now() - began)
        return part
