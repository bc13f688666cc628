"""What the gateway has to know of a request in OpenAI's API. All else of it is the business of who answers it.

Fields are read leniently: one that says nothing that is understood here goes on as it came, and is refused there.
"""

from functools import cached_property
from typing import TypeVar

import msgspec

from app.batches import surrogates
from app.batches.request import PRIORITY_BOUND
from app.errors import InvalidRequest, NotFound
from app.validation import DECODE_ERRORS, short
from engines.contract.exchanges import Exchange
from engines.contract.limits import Excess, beyond_n

BYTES_PER_TOKEN = 4  # estimated: the gateway does not tokenise
DEFAULT_COMPLETION_TOKENS = 16  # of /v1/completions, by OpenAI's contract
OUTPUTS = ("n", "best_of")
TOKEN_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
TRUE = frozenset({b"true", b"t", b"1", b"1.0", b"yes", b"y", b"on"})  # in JSON: as words, or as they are
Fields = dict[str, msgspec.Raw]
T = TypeVar("T")

_decode = msgspec.json.Decoder(Fields).decode


class ExchangeRequest:
    """A request's body, taken apart as far as its fields."""

    def __init__(self, path: Exchange, body: bytes | bytearray) -> None:
        """Raises InvalidRequest for what is no JSON object."""
        self.path = path
        self.body = bytes(body)
        try:
            self.fields: Fields = _decode(body)
        except DECODE_ERRORS as error:
            found = surrogates.complaint_of(error, body, "")
            raise InvalidRequest(found.message, param=found.param) from error

    @property
    def model(self) -> str | None:
        """The model that is asked for."""
        return self._read("model", str)

    @property
    def streams(self) -> bool:
        """Whether the answer is to come as it is made. What the engine's application takes for true is true."""
        return self.path.may_stream and (self.raw("stream") or b"").strip(b'"').lower() in TRUE

    @property
    def priority(self) -> int | None:
        """Before which other requests it runs: lower runs first. Raises InvalidRequest."""
        given = self.raw("priority")
        if given is None:
            return None
        asked = self._read("priority", int)
        if asked is None or abs(asked) > PRIORITY_BOUND:
            raise InvalidRequest(
                f"priority is {short(given.decode(errors='replace'))}: it must be a whole number from "
                f"{-PRIORITY_BOUND} to {PRIORITY_BOUND}",
                param="priority",
            )
        return asked

    def check_state(self) -> None:
        """Raises InvalidRequest or NotFound for what takes a response that is stored: there are none."""
        if self.path is not Exchange.RESPONSES:
            return
        if self._read("background", bool):
            raise InvalidRequest(
                "background is true, and responses are not stored here: leave it out, or use /v1/batches",
                param="background",
                code="unsupported_parameter",
            )
        if self.raw("previous_response_id") is not None:
            raise NotFound(
                "previous_response_id names a response, and none is stored here: send what was said before in input",
                param="previous_response_id",
                code="previous_response_not_found",
            )

    @cached_property
    def sequences(self) -> int:
        """Outputs of each prompt."""
        return max(1, *self._outputs.values())

    def excess(self, max_n: int) -> Excess | None:
        """What asks for too many outputs of a prompt; None where nothing does."""
        return next((found for name, n in self._outputs.items() if (found := beyond_n(n, max_n, name))), None)

    @cached_property
    def _outputs(self) -> dict[str, int]:
        return {name: self._read(name, int) or 1 for name in OUTPUTS}

    def max_tokens(self, default: int) -> int:
        """Tokens of each output."""
        if self.path is Exchange.COMPLETIONS:
            default = DEFAULT_COMPLETION_TOKENS
        found = next((count for name in TOKEN_LIMITS if (count := self._read(name, int)) is not None), default)
        return max(1, found)

    @property
    def prompt_tokens(self) -> int:
        """About so many, of all prompts."""
        return len(self.body) // BYTES_PER_TOKEN

    def raw(self, name: str) -> bytes | None:
        """A field as it came; None where it is missing, or null."""
        value = self.fields.get(name)
        return None if value is None or bytes(value) == b"null" else bytes(value)

    def _read(self, name: str, kind: type[T]) -> T | None:
        value = self.fields.get(name)
        if value is None:
            return None
        try:
            return msgspec.json.decode(value, type=kind)
        except DECODE_ERRORS:
            return None
