"""A request's body, read within limits that hold while it is read: of its size, its pace, and the gateway's memory."""

import asyncio
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from app.api.headers import header_of
from app.batches.memory import Holding
from app.batches.reading import BodyReads
from app.errors import InvalidRequest, TooLarge, TooSlow, WrongMediaType
from app.settings.declaration import Settings

JSON_TYPE = "application/json"
DIGEST_BYTES = 16  # by which bodies with an Idempotency-Key are told apart


@dataclass(frozen=True)
class BodyLimits:
    """Of one body. `timeout_s` is for its next part; on average it has to come with `min_rate` bytes a second."""

    size: int
    timeout_s: float
    min_rate: int

    @classmethod
    def of(cls, settings: Settings) -> "BodyLimits":
        """Those that the settings give."""
        return cls(settings.max_body_bytes, settings.body_timeout_s, settings.min_body_rate)


class Pace:
    """How fast one body comes. Only the time counts in which its next part is waited for."""

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self._received = 0
        self._waited_s = 0.0
        self.spare_s = limits.timeout_s  # that the next part may take

    def count(self, size: int, waited_s: float) -> None:
        """A part has come. Fast bytes buy no long pause."""
        self._received += size
        self._waited_s += waited_s
        earned_s = size / self._limits.min_rate
        self.spare_s = min(self._limits.timeout_s, self.spare_s - waited_s + earned_s)

    def too_slow(self, waited_s: float) -> TooSlow:
        """The error of a body whose next part has not come in so many seconds."""
        limits = self._limits
        return TooSlow(
            f"{self._received} bytes of the body came in {self._waited_s + waited_s:.0f} s: its next part must come "
            f"within {limits.timeout_s:g} s (--body-timeout-s), and all of it with {limits.min_rate} bytes a second "
            "(--min-body-rate)",
            code="slow_body",
        )


async def read_json(
    request: Request, limits: BodyLimits, holding: Holding, reads: BodyReads, types: str = JSON_TYPE
) -> bytearray:
    """The whole body, which must be declared as JSON. It counts for `holding` as it comes. `types` are those that a
    refusal names.

    Raises WrongMediaType, TooLarge, TooSlow, TryLater or InvalidRequest.
    """
    media_type = media_type_of(request)
    if media_type != JSON_TYPE:
        raise WrongMediaType(
            f"Content-Type is {media_type[:100]!r}: it must be {types}",
            param="Content-Type",
            code="unsupported_media_type",
        )
    check_encoding(request)
    declared = header_of(request.scope, b"content-length") or ""
    if declared.isdigit() and int(declared) > limits.size:
        raise _too_large(limits.size)
    return await _read(request, limits, holding, reads)


def media_type_of(request: Request) -> str:
    """The body's type as the request declares it, in small letters and without its parameters."""
    return (header_of(request.scope, b"content-type") or "").partition(";")[0].strip().lower()


def check_encoding(request: Request) -> None:
    """Raises WrongMediaType for a body that is compressed."""
    encoding = header_of(request.scope, b"content-encoding")
    if encoding is not None and encoding.strip().lower() != "identity":
        raise WrongMediaType(
            "Content-Encoding is set: send the body uncompressed", param="Content-Encoding", code="unsupported_encoding"
        )
    transfer = header_of(request.scope, b"transfer-encoding")
    if transfer is not None and transfer.strip().lower() != "chunked":
        raise WrongMediaType(
            "Transfer-Encoding is more than chunked: send the body uncompressed",
            param="Transfer-Encoding",
            code="unsupported_encoding",
        )


def cut_short() -> InvalidRequest:
    """The error of a body whose client has gone before its end."""
    return InvalidRequest("the connection ended within the body", code="incomplete_body")


async def _read(request: Request, limits: BodyLimits, holding: Holding, reads: BodyReads) -> bytearray:
    body = bytearray()  # grows in place: parts that are joined in the end would be there twice
    now = asyncio.get_running_loop().time
    latest = now()
    pace = Pace(limits)
    try:
        async with reads.until(latest + pace.spare_s) as deadline:
            async for part in request.stream():
                if not part:
                    continue  # the end
                if len(body) + len(part) > limits.size:
                    raise _too_large(limits.size)
                holding.take(len(part))
                body += part
                latest, before = now(), latest
                pace.count(len(part), latest - before)
                reads.move(deadline, latest + pace.spare_s)
    except TimeoutError:
        raise pace.too_slow(now() - latest) from None
    except ClientDisconnect:
        raise cut_short() from None
    return body


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(
        f"the body has more than {limit_bytes} bytes (--max-body-bytes): send it in parts", code="body_too_large"
    )
