"""Requests that crashed an engine. Whoever sends one again is refused: a client that retries would go on for ever.

How its answer was to come does not count: the same request as a stream, or not, is the same to the engine.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

import msgspec

from engines.contract.exchanges import Exchange

KEPT_S = 3600.0
MOST_KEPT = 10_000
DIGEST_BYTES = 16
OF_THE_ANSWER = ("stream", "stream_options")

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Convictions:
    """By a digest of their bodies, for an hour."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def add(self, path: Exchange, body: bytes) -> None:
        """It was found to crash its engine."""
        self._until[_digest(path, body)] = self._clock() + KEPT_S
        while len(self._until) > MOST_KEPT:
            self._until.popitem(last=False)

    def seconds_left(self, path: Exchange, body: bytes) -> float:
        """For how long it is refused still; 0 for one that nobody has convicted."""
        if not self._until:
            return 0.0
        return max(0.0, self._until.get(_digest(path, body), 0.0) - self._clock())


def _digest(path: Exchange, body: bytes) -> bytes:
    fields = {name: value for name, value in _decode(body).items() if name not in OF_THE_ANSWER}
    return blake2b(path.encode() + b"\n" + _encode(fields), digest_size=DIGEST_BYTES).digest()
