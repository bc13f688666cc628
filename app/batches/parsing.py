"""From a body to a request, its prompts still the JSON that they came in."""

import msgspec

from app.batches import surrogates
from app.batches.request import MISPLACED, BatchRequest
from app.batches.splitting import check_list
from app.batches.turnstile import Turnstile
from app.errors import InvalidRequest
from app.validation import DECODE_ERRORS, Complaint, complaint
from engines.contract.sampling import SamplingFields

_decode = msgspec.json.Decoder(BatchRequest).decode


async def parse_in_turn(body: bytearray, turnstile: Turnstile) -> BatchRequest:
    """The request. Half a character in one prompt is that prompt's own fault. Raises InvalidRequest."""
    await turnstile.enter()  # it takes a third of a second for a body of 128 MiB
    try:
        return parse(body)
    except InvalidRequest:
        if not await surrogates.mark(body, turnstile):
            raise
    return parse(body)


def parse(body: bytes | bytearray) -> BatchRequest:
    """The request of a body that holds no half characters. Raises InvalidRequest."""
    try:
        request = _decode(body)
    except DECODE_ERRORS as error:
        found = _with_hint(complaint(error, "", BatchRequest.__struct_fields__))
        raise InvalidRequest(found.message, param=found.param) from error
    check_list(memoryview(request.prompts))
    return request


def _with_hint(found: Complaint) -> Complaint:
    """Says where a field belongs that was put beside the prompts."""
    name = found.param or ""
    if "unknown field" not in found.message:
        return found
    if name in MISPLACED:
        return Complaint(found.param, f"unknown field {name!r}: {MISPLACED[name]}")
    if name in SamplingFields.__struct_fields__:
        return Complaint(found.param, f"unknown field {name!r}: it belongs in sampling_params")
    return found
