"""Days in UTC, such as 2026-11-27: by them usage is counted."""

import datetime


def day_of(time_s: float) -> str:
    """Of a time in Unix seconds."""
    return datetime.datetime.fromtimestamp(time_s, datetime.UTC).date().isoformat()
