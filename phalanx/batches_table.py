"""Detached batches for a person: a table of many, or all that is known of one."""

import datetime
from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from phalanx.client import BatchInfo
from phalanx.console import make_console

COLORS = {
    "in_progress": "green",
    "held": "bold red",
    "cancelling": "yellow",
    "cancelled": "yellow",
    "expired": "red",
    "failed": "red",
}


def print_batches(batches: Iterable[BatchInfo]) -> None:
    """A line for each batch, and below them why some are held or did not complete."""
    batches = list(batches)
    console = make_console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("ID", "STATUS", "CREATED"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ITEMS", "OK", "FAILED", "LEFT", "TOK/S", "TIME LEFT"):
        table.add_column(heading, justify="right")
    table.add_column("MODEL")
    for info in batches:
        table.add_row(*_cells(info))
    console.print(table)
    for info in batches:
        if info.reason:
            _print_line(console, f"{info.id}: {info.reason}")


def print_batch(info: BatchInfo) -> None:
    """A line for each fact."""
    counts, usage = info.request_counts, info.usage
    facts = {
        "id": escape(info.id),
        "status": _status(info),
        "reason": info.reason and escape(info.reason),
        "model": info.model and escape(info.model),
        "priority": str(info.priority),
        "items": f"{counts.total:,}: {counts.ok:,} ok, {counts.error:,} error, {counts.cancelled:,} cancelled, "
        f"{counts.timeout:,} timeout, {_left(info):,} left",
        "tokens": f"{usage.prompt_tokens:,} of prompts ({usage.prompt_tokens_details.cached_tokens:,} cached), "
        f"{usage.completion_tokens:,} generated",
        "tokens/s": info.tokens_per_s is not None and f"{info.tokens_per_s:,.0f}",
        "time left": info.predicted_s_left is not None and _duration(info.predicted_s_left),
        "created": _moment(info.created_at),
        "started": _moment(info.started_at),
        "ended": _moment(info.ended_at),
        "deadline": _moment(info.deadline_at),
        "expires": _moment(info.expires_at),
        "last seq": str(info.last_seq),
        "key": info.idempotency_key and escape(info.idempotency_key),
        "metadata": info.metadata and escape(str(info.metadata)),
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in facts.items():
        if fact:
            table.add_row(name, fact)
    make_console().print(table)


def _cells(info: BatchInfo) -> list[str]:
    counts = info.request_counts
    return [
        escape(info.id),
        _status(info),
        _moment(info.created_at) or "-",
        f"{counts.total:,}",
        f"{counts.ok:,}",
        f"{info.failed_items:,}",
        f"{_left(info):,}",
        "-" if info.tokens_per_s is None else f"{info.tokens_per_s:,.0f}",
        "-" if info.predicted_s_left is None else _duration(info.predicted_s_left),
        escape(info.model or "-"),
    ]


def _status(info: BatchInfo) -> str:
    color = COLORS.get(info.status)
    return f"[{color}]{info.status}[/]" if color else info.status


def _left(info: BatchInfo) -> int:
    return max(0, info.request_counts.total - info.request_counts.ok - info.failed_items)


def _moment(unix_time: float | None) -> str | None:
    if unix_time is None:
        return None
    return datetime.datetime.fromtimestamp(unix_time).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _duration(seconds: float) -> str:
    """Such as 41s, 12m 05s or 26h 10m."""
    minutes, rest_s = divmod(round(seconds), 60)
    hours, rest_m = divmod(minutes, 60)
    if hours:
        return f"{hours}h {rest_m:02}m"
    return f"{minutes}m {rest_s:02}s" if minutes else f"{rest_s}s"


def _print_line(console: Console, text: str) -> None:
    console.print(text, style="red", markup=False, highlight=False)
