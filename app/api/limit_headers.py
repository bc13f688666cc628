"""What a key may still do, on every answer to it: as OpenAI names it, and likewise for items."""

import math

from app.keys.ring import Caller

LIMIT_REQUESTS = "x-ratelimit-limit-requests"
REMAINING_REQUESTS = "x-ratelimit-remaining-requests"
RESET_REQUESTS = "x-ratelimit-reset-requests"
LIMIT_ITEMS = "x-ratelimit-limit-items"
REMAINING_ITEMS = "x-ratelimit-remaining-items"

MEANINGS = {
    LIMIT_REQUESTS: "Requests that the API key may send at once. Only for keys with a limit of requests a second.",
    REMAINING_REQUESTS: "Of these, those that are left now.",
    RESET_REQUESTS: "Until all of them are there again, such as 250ms, 3.5s or 2m10s.",
    LIMIT_ITEMS: "Items that the API key may have waiting. Only for keys with such a limit.",
    REMAINING_ITEMS: "Of these, those that are left now.",
}


def limit_headers(caller: Caller, waiting_items: int) -> dict[str, str]:
    """The headers for a caller that has so many items waiting; none for limits that its key does not have."""
    headers: dict[str, str] = {}
    if caller.bucket is not None:
        headers[LIMIT_REQUESTS] = str(caller.bucket.capacity)
        headers[REMAINING_REQUESTS] = str(caller.bucket.remaining)
        headers[RESET_REQUESTS] = duration(caller.bucket.full_s)
    limit = caller.key.limits.max_waiting_items if caller.key else None
    if limit is not None:
        headers[LIMIT_ITEMS] = str(limit)
        headers[REMAINING_ITEMS] = str(max(0, limit - waiting_items))
    return headers


def duration(seconds: float) -> str:
    """As OpenAI writes it, rounded up."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    tenths = math.ceil(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    return f"{minutes}m{tenths / 10:g}s" if minutes else f"{tenths / 10:g}s"
