"""Days in UTC, such as 2026-11-27: by them usage is counted."""

import datetime
from functools import lru_cache

DAY_S = 86_400  # UTC has no others: Unix time leaves leap seconds out


def day_of(time_s: float) -> str:
    """Of a time in Unix seconds."""
    return _day(int(time_s // DAY_S))


@lru_cache(8)
def _day(number: int) -> str:
    return datetime.datetime.fromtimestamp(number * DAY_S, datetime.UTC).date().isoformat()
