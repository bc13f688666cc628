"""What a client asks for when it creates a batch, and how it is checked before any of its input file is read."""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from app.batches.request import MAX_SECONDS
from app.errors import InvalidRequest
from app.validation import DECODE_ERRORS, complaint, shown

MAX_METADATA_PAIRS = 16  # OpenAI's bounds
MetadataKey = Annotated[str, Meta(max_length=64)]
MetadataValue = Annotated[str, Meta(max_length=512)]
SHORTEST_S, LONGEST_S = 3600, 30 * 86400  # an output file's life, by OpenAI's bounds
WINDOW = re.compile(r"([0-9]{1,9}(?:[.][0-9]{1,3})?)([smhd])")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class OutputExpiry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How long the output and error files are kept."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=SHORTEST_S, le=LONGEST_S)]


class CreateBatch(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of ``POST /v1/batches``."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=MAX_METADATA_PAIRS)] | None = None
    output_expires_after: OutputExpiry | None = None


_decode = msgspec.json.Decoder(CreateBatch).decode


def parse_creation(body: bytes | bytearray, endpoints: tuple[str, ...]) -> CreateBatch:
    """What the body asks for; `endpoints` are those that a batch may have. Raises InvalidRequest."""
    try:
        asked = _decode(body)
    except DECODE_ERRORS as error:
        found = complaint(error, "", CreateBatch.__struct_fields__)
        raise InvalidRequest(found.message, param=found.param) from error
    if asked.endpoint not in endpoints:
        raise InvalidRequest(f"endpoint is {shown(asked.endpoint)}: it may be {', '.join(endpoints)}", param="endpoint")
    window_s(asked.completion_window)
    return asked


def window_s(written: str) -> float:
    """A completion window in seconds, such as of 24h. Raises InvalidRequest."""
    found = WINDOW.fullmatch(written)
    seconds = float(found[1]) * _UNITS_S[found[2]] if found else 0.0
    if not 0 < seconds <= MAX_SECONDS:
        raise InvalidRequest(
            f"completion_window is {shown(written)}: it must be such as 24h, or another time in s, m, h or d",
            param="completion_window",
        )
    return seconds
