"""A request's body, read with a limit that holds while it is read."""

from starlette.requests import ClientDisconnect, Request

from app.errors import InvalidRequest, TooLarge, WrongMediaType

JSON_TYPE = "application/json"


async def read_json(request: Request, limit_bytes: int) -> bytes:
    """The whole body, which must be declared as JSON. Raises WrongMediaType, TooLarge or InvalidRequest."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != JSON_TYPE:
        raise WrongMediaType(
            f"Content-Type is {media_type[:100]!r}: it must be {JSON_TYPE}",
            param="Content-Type",
            code="unsupported_media_type",
        )
    if request.headers.get("content-encoding", "identity") != "identity":
        raise WrongMediaType(
            "Content-Encoding is set: send the body uncompressed", param="Content-Encoding", code="unsupported_encoding"
        )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit_bytes:
                raise _too_large(limit_bytes)
            chunks.append(chunk)
    except ClientDisconnect:
        raise InvalidRequest("the connection ended within the body", code="incomplete_body") from None
    return b"".join(chunks)


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(
        f"the body has more than {limit_bytes} bytes (--max-body-bytes): split the batch", code="body_too_large"
    )
