"""What was worked out for equal encodings, within a bound: the least recently used goes first."""

from collections import OrderedDict
from typing import Generic, TypeVar

MAX_ENTRIES = 4096
MAX_KEY_BYTES = 16 * 1024 * 1024  # all keys together; what is kept for them takes some ten times as much

Value = TypeVar("Value")


class BoundedCache(Generic[Value]):
    """By an encoding, whose size stands for the size of what is kept."""

    def __init__(self, max_entries: int = MAX_ENTRIES, max_key_bytes: int = MAX_KEY_BYTES) -> None:
        self._max_entries = max_entries
        self._max_key_bytes = max_key_bytes
        self._entries: OrderedDict[bytes, Value] = OrderedDict()
        self._key_bytes = 0

    def get(self, key: bytes) -> Value | None:
        """What is kept for it."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def drop(self, key: bytes) -> None:
        """Keeps it no longer."""
        if self._entries.pop(key, None) is not None:
            self._key_bytes -= len(key)

    def put(self, key: bytes, value: Value) -> None:
        """Keeps it, and lets older ones go."""
        if self._entries.pop(key, None) is None:
            self._key_bytes += len(key)
        self._entries[key] = value
        while len(self._entries) > self._max_entries or (
            self._key_bytes > self._max_key_bytes and len(self._entries) > 1
        ):
            oldest, _ = self._entries.popitem(last=False)
            self._key_bytes -= len(oldest)
