"""`phalanx api-keys list`: the keys for a person, and for a script."""

import datetime
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from phalanx.console import make_console

if TYPE_CHECKING:
    from app.keys.key import ApiKey


def shown(key: "ApiKey") -> dict[str, Any]:  # Any: JSON
    """A key without what is kept of its secret. A limit that is null is the service's own."""
    limits = key.limits
    return {
        "id": key.id,
        "name": key.name,
        "created_at": key.created_at,
        "tenant": key.tenant_name,
        "admin": key.admin,
        "weight": key.weight,
        "limits": {
            "max_waiting_items": limits.max_waiting_items,
            "requests_per_s": limits.requests_per_s,
            "min_priority": limits.min_priority,
            "max_priority": limits.max_priority,
        },
    }


def print_keys(keys: "Iterable[ApiKey]") -> None:
    """A line for each key."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("ID", "NAME", "TENANT", "CREATED", "ADMIN"):
        table.add_column(heading)
    for heading in ("WEIGHT", "WAITING ITEMS", "REQUESTS/S", "PRIORITIES"):
        table.add_column(heading, justify="right")
    for key in keys:
        table.add_row(
            key.id,
            escape(key.name),
            key.tenant or "-",
            datetime.datetime.fromtimestamp(key.created_at).astimezone().strftime("%Y-%m-%d %H:%M"),
            "yes" if key.admin else "-",
            str(key.weight),
            _limit(key.limits.max_waiting_items),
            _limit(key.limits.requests_per_s),
            key.limits.priorities,
        )
    make_console().print(table)


def _limit(value: float | None) -> str:
    return "-" if value is None else f"{value:,.10g}"
