"""The tally of a load as a person reads it."""

from rich.console import Console
from rich.table import Table

from tests.load.tally import Tally

PERCENTILES = (50, 90, 99)


def print_tally(console: Console, tally: Tally) -> None:
    """Throughput, latencies, and errors if there were any."""
    tables = [_throughput(tally), _latencies(tally)]
    if tally.postponed or tally.errors:
        tables.append(_errors(tally))
    for table in tables:
        console.print()
        console.print(table)


def _throughput(tally: Tally) -> Table:
    table = _table("", "TOTAL", "PER SECOND")
    for name, total in (("requests", tally.requests), ("items", tally.items), ("tokens", tally.tokens)):
        table.add_row(name, f"{total:,}", f"{total / tally.seconds:,.1f}")
    return table


def _latencies(tally: Tally) -> Table:
    table = _table("", *(f"P{percent}" for percent in PERCENTILES), "MAX")
    shown = [tally.percentile(percent) for percent in (*PERCENTILES, 100)]
    table.add_row("latency, s", *("-" if latency is None else f"{latency:.3f}" for latency in shown))
    return table


def _errors(tally: Tally) -> Table:
    table = _table("ERROR", "COUNT", "")
    for kind, count in tally.postponed.most_common():
        table.add_row(kind, f"{count:,}", "sent again")
    for kind, count in tally.errors.most_common():
        table.add_row(kind, f"{count:,}", "")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, min_width=len("latency, s"))
    for heading in others:
        table.add_column(heading, justify="right")
    return table
