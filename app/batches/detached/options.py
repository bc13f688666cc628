"""What was asked for a whole batch, as the journal keeps it: the request without its prompts."""

import msgspec

from app.batches.request import NO_PROMPTS, BatchRequest

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(BatchRequest).decode


def encode_options(request: BatchRequest) -> bytes:
    """The JSON of a request but for its prompts, which are stored one by one."""
    return _encode(msgspec.structs.replace(request, prompts=NO_PROMPTS))


def decode_options(options: bytes) -> BatchRequest:
    """A request without prompts."""
    return _decode(options)
