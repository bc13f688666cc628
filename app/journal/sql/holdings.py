"""What tenants store and use: counted with every change, and held against the quotas."""

import time

from sqlalchemy import Connection, func, select

from app.journal.days import day_of
from app.journal.errors import QuotaExceeded
from app.journal.records import Allowance, DayUsage, Quotas, Sizes
from app.journal.sql.dialect import add_to
from app.journal.sql.schema import holdings, usage

NOTHING = Sizes()
KINDS = Sizes.__struct_fields__


def add(
    connection: Connection, tenant: str, *, batches: int = 0, items: int = 0, size: int = 0, files: int = 0
) -> None:
    """Counts what a tenant stores from now on; negative numbers are what is gone. `size` is in bytes."""
    row = {"tenant": tenant, "batches": batches, "items": items, "bytes": size, "files": files}
    add_to(connection, holdings, row)


def check(connection: Connection, quotas: Quotas, tenant: str, asked: Sizes, own: Sizes = NOTHING) -> None:
    """Raises QuotaExceeded if so much more is too much; `own` is what the asking batch or file has stored already."""
    for allowance, whose in ((quotas.tenant, tenant), (quotas.total, None)):
        if allowance == Allowance():
            continue
        stored = sizes(connection, whose)
        for kind in KINDS:
            allowed, used, more = getattr(allowance, kind), getattr(stored, kind), getattr(asked, kind)
            if allowed is not None and more and used + more > allowed:
                had = getattr(own, kind)
                raise QuotaExceeded(kind, whose, used - had, had + more, allowed)


def sizes(connection: Connection, tenant: str | None) -> Sizes:
    """What a tenant stores, or all together."""
    sums = select(*(func.coalesce(func.sum(holdings.c[kind]), 0) for kind in KINDS))
    if tenant is not None:
        sums = sums.where(holdings.c.tenant == tenant)
    return Sizes(*(int(found) for found in connection.execute(sums).one()))


def add_usage(connection: Connection, used: DayUsage) -> None:
    """Adds to what the tenant has used on that day."""
    row = {name: getattr(used, name) for name in DayUsage.__struct_fields__}
    add_to(connection, usage, row)


def used(connection: Connection, tenant: str | None, since: str, until: str) -> list[DayUsage]:
    """Of one tenant, or of all: by days, both ends included."""
    columns = [usage.c[name] for name in DayUsage.__struct_fields__]
    wanted = select(*columns).where(usage.c.day >= since, usage.c.day <= until).order_by(usage.c.day, usage.c.tenant)
    if tenant is not None:
        wanted = wanted.where(usage.c.tenant == tenant)
    return [DayUsage(**row) for row in connection.execute(wanted).mappings()]


def today() -> str:
    """The day in UTC, such as 2026-11-27."""
    return day_of(time.time())
