"""``GET /v1/usage``: what tenants have used, by day."""

import datetime
import re
import time
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from app.api.auth import caller_of
from app.api.describing import Answers, Described
from app.api.state import gateway_of
from app.errors import InvalidRequest
from app.journal.days import day_of
from app.journal.records import DayUsage

router = APIRouter()
DEFAULT_DAYS = 30
MOST_DAYS = 366
Day = Annotated[str | None, Query(json_schema_extra={"format": "date"})]
_encode = msgspec.json.Encoder().encode


class UsageOfDay(msgspec.Struct, kw_only=True):
    """What one tenant used on one day."""

    object: Literal["usage.day"] = "usage.day"
    day: str
    tenant: str
    requests: int
    items: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class UsageList(msgspec.Struct, kw_only=True):
    """By day and tenant; days without use are left out."""

    object: Literal["list"] = "list"
    data: list[UsageOfDay]


SCHEMAS = (
    Described(
        UsageOfDay,
        notes={
            "day": "In UTC, such as 2026-11-27.",
            "requests": "Batches that have ended, or that were taken to run in the background.",
            "items": "Items that have their results.",
        },
    ),
    Described(UsageList),
)
ANSWERS = {"/v1/usage": Answers("UsageList", (503,))}


@router.get("/v1/usage", summary="What was used, by day")
async def usage(request: Request, since: Day = None, until: Day = None) -> Response:
    """The API key's tenant's usage, or every tenant's for an admin's key; at most 366 days.

    `since` and `until` are days in UTC, such as 2026-11-27, both included: by default the last 30 days. A batch counts
    when it has ended; one that runs in the background counts as its results come.
    """
    gateway = gateway_of(request)
    last = _day("until", until) or _today()
    first = _day("since", since) or last - min(datetime.timedelta(DEFAULT_DAYS - 1), last - datetime.date.min)
    _check(first, last)
    await gateway.keeper.usage.flush()
    found = await gateway.keeper.journal.usage(caller_of(request).sees, first.isoformat(), last.isoformat())
    return Response(_encode(UsageList(data=[_view(used) for used in found])), media_type="application/json")


def _view(used: DayUsage) -> UsageOfDay:
    total = used.prompt_tokens + used.completion_tokens
    return UsageOfDay(**msgspec.structs.asdict(used), total_tokens=total)


def _today() -> datetime.date:
    return datetime.date.fromisoformat(day_of(time.time()))


def _day(name: str, written: str | None) -> datetime.date | None:
    """Raises InvalidRequest."""
    if written is None:
        return None
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", written, re.ASCII):
            return datetime.date.fromisoformat(written)
    except ValueError:
        pass
    raise InvalidRequest(f"{name} is {written[:50]!r}: it must be a day such as 2026-11-27", param=name)


def _check(first: datetime.date, last: datetime.date) -> None:
    """Raises InvalidRequest."""
    if first > last:
        raise InvalidRequest(f"since is {first}, and until is {last}: it must not be later", param="since")
    if (last - first).days >= MOST_DAYS:
        raise InvalidRequest(
            f"since is {first}, and until is {last}: at most {MOST_DAYS} days are shown", param="since"
        )
