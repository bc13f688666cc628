"""Random ids: 128 bits of the system's entropy as hexadecimal digits, had from it for many at once."""

import os

BYTES = 16
AT_ONCE = 256
_left: list[str] = []


def fresh_id() -> str:
    """32 digits that nobody has had. Not for secrets: those that come next lie in memory."""
    try:
        return _left.pop()
    except IndexError:
        drawn = os.urandom(BYTES * AT_ONCE).hex()
        ids = [drawn[start : start + 2 * BYTES] for start in range(0, len(drawn), 2 * BYTES)]
        _left.extend(ids[1:])
        return ids[0]
