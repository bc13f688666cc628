"""A request's body, read within limits that hold while it is read: of its size, its pace, and the gateway's memory."""

import asyncio
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from app.batches.memory import Holding
from app.batches.reading import BodyReads
from app.errors import InvalidRequest, TooLarge, TooSlow, WrongMediaType
from app.settings.declaration import Settings

JSON_TYPE = "application/json"


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


async def read_json(request: Request, limits: BodyLimits, holding: Holding, reads: BodyReads) -> bytearray:
    """The whole body, which must be declared as JSON. It counts for `holding` as it comes.

    Raises WrongMediaType, TooLarge, TooSlow, TryLater or InvalidRequest.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != JSON_TYPE:
        raise WrongMediaType(
            f"Content-Type is {media_type[:100]!r}: it must be {JSON_TYPE}",
            param="Content-Type",
            code="unsupported_media_type",
        )
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise WrongMediaType(
            "Content-Encoding is set: send the body uncompressed", param="Content-Encoding", code="unsupported_encoding"
        )
    if request.headers.get("transfer-encoding", "chunked").strip().lower() != "chunked":
        raise WrongMediaType(
            "Transfer-Encoding is more than chunked: send the body uncompressed",
            param="Transfer-Encoding",
            code="unsupported_encoding",
        )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limits.size:
        raise _too_large(limits.size)
    return await _read(request, limits, holding, reads)


async def _read(request: Request, limits: BodyLimits, holding: Holding, reads: BodyReads) -> bytearray:
    body = bytearray()  # grows in place: parts that are joined in the end would be there twice
    now = asyncio.get_running_loop().time
    began = latest = now()
    spare_s = limits.timeout_s
    try:
        async with reads.until(began + limits.timeout_s) as deadline:
            async for part in request.stream():
                if len(body) + len(part) > limits.size:
                    raise _too_large(limits.size)
                holding.take(len(part))
                body += part
                latest, before = now(), latest
                earned_s = len(part) / limits.min_rate
                spare_s = min(limits.timeout_s, spare_s - (latest - before) + earned_s)  # fast bytes buy no long pause
                reads.move(deadline, latest + spare_s)
    except TimeoutError:
        raise _too_slow(limits, len(body), now() - began) from None
    except ClientDisconnect:
        raise InvalidRequest("the connection ended within the body", code="incomplete_body") from None
    return body


def _too_slow(limits: BodyLimits, received: int, seconds: float) -> TooSlow:
    return TooSlow(
        f"{received} bytes of the body came in {seconds:.0f} s: its next part must come within {limits.timeout_s:g} s "
        f"(--body-timeout-s), and all of it with {limits.min_rate} bytes a second (--min-body-rate)",
        code="slow_body",
    )


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(
        f"the body has more than {limit_bytes} bytes (--max-body-bytes): split the batch", code="body_too_large"
    )
