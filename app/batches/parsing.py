"""From a body to a request, its prompts still the JSON that they came in."""

from collections.abc import Mapping

import msgspec

from app.batches import surrogates
from app.batches.request import MISPLACED, NO_PROMPTS, BatchRequest
from app.batches.splitting import check_list
from app.batches.turnstile import Turnstile
from app.errors import InvalidRequest
from app.validation import DECODE_ERRORS, Complaint, complaint
from engines.contract.sampling import SamplingFields

OPTIONS = "batch_generation.options"  # the `object` of an NDJSON body's first line, if that is no prompt
_decode = msgspec.json.Decoder(BatchRequest).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_ON_LINES = "each prompt is a line of its own, below the options"


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
        raise _refusal(error, MISPLACED) from error
    check_list(memoryview(request.prompts))
    return request


def parse_options(line: bytes) -> BatchRequest:
    """The batch-wide fields, from a line of JSON whose `object` is OPTIONS. Its prompts are an empty list.

    Raises InvalidRequest.
    """
    hints = MISPLACED | dict.fromkeys(("prompt", "messages", "requests"), _ON_LINES)
    try:
        fields = _decode_fields(line)
        if "prompts" in fields:
            raise InvalidRequest(f"unknown field 'prompts': {_ON_LINES}", param="prompts")
        del fields["object"]
        return _decode(msgspec.json.encode(fields | {"prompts": NO_PROMPTS}))
    except DECODE_ERRORS as error:
        raise _refusal(error, hints) from error


def _refusal(error: Exception, hints: Mapping[str, str]) -> InvalidRequest:
    found = _with_hint(complaint(error, "", BatchRequest.__struct_fields__), hints)
    return InvalidRequest(found.message, param=found.param)


def _with_hint(found: Complaint, hints: Mapping[str, str]) -> Complaint:
    """Says where a field belongs that was put beside the prompts."""
    name = found.param or ""
    if "unknown field" not in found.message:
        return found
    if name in hints:
        return Complaint(found.param, f"unknown field {name!r}: {hints[name]}")
    if name in SamplingFields.__struct_fields__:
        return Complaint(found.param, f"unknown field {name!r}: it belongs in sampling_params")
    return found
