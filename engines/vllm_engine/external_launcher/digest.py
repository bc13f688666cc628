"""A number for all that a worker's engine core has put out so far: equal numbers mean equal outputs."""

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

BYTES = 8

_encode = msgspec.msgpack.Encoder().encode


class Digest:
    """Chains what comes out of the steps: whoever has differed once differs for good."""

    def __init__(self, begin: object) -> None:
        self._state = _hashed(_encode(begin))

    @property
    def value(self) -> int:
        """It fits a signed number of 64 bits."""
        return int.from_bytes(self._state, "little", signed=True)

    def add(self, outputs: Iterable[Any]) -> None:  # Any: vLLM's EngineCoreOutput
        """Takes the outputs of one step. Request ids are the same for all workers: the leader chose them."""
        rows = [(output.request_id, output.new_token_ids, _number(output.finish_reason)) for output in outputs]
        self._state = _hashed(self._state + _encode(rows))


def _number(reason: Any) -> int | None:  # Any: vLLM's FinishReason
    return None if reason is None else int(reason)


def _hashed(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=BYTES).digest()
