"""`phalanx ranks`: asks a gateway for its ranks and shows them to a person."""

from dataclasses import dataclass
from typing import Any

import httpx
from rich.table import Table

from phalanx.address import ImpossibleKey, authorization, base_url
from phalanx.console import make_console

TIMEOUT_S = 10.0
COLORS = {"ready": "green", "starting": "yellow", "backoff": "yellow", "failed": "red", "broken": "bold red"}

Rank = dict[str, Any]  # Any: the gateway's JSON; fields of another version may be missing


class NoGatewayError(Exception):
    """No gateway answers there. The message says what to do."""


@dataclass(frozen=True)
class Answer:
    """What the gateway said: as it stood, and taken apart."""

    text: str
    ranks: list[Rank]


def fetch_ranks(url: str, api_key: str | None = None) -> Answer:
    """The ranks of the gateway at `url`. Raises NoGatewayError."""
    base = base_url(url)
    try:
        headers = authorization(api_key)
    except ImpossibleKey as error:
        raise NoGatewayError(f"{error}: set PHALANX_API_KEY, or --api-key, anew") from None
    try:
        response = httpx.get(f"{base}/v1/ranks", headers=headers, timeout=TIMEOUT_S, trust_env=False)
        response.raise_for_status()
        return Answer(response.text, list(response.json()["data"]))
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            wants = "does not know this API key: give it another" if api_key else "asks for an API key: give it one"
            raise NoGatewayError(f"the gateway at {base} {wants} with PHALANX_API_KEY or --api-key") from None
        reason = f"it answers {error.response.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
    except (ValueError, KeyError, TypeError):
        reason = "it answers, but not with ranks"
    raise NoGatewayError(f"no gateway at {base} ({reason}): start one with `phalanx serve`, or say where with --url")


def print_ranks(ranks: list[Rank]) -> None:
    """A line for each rank, and below them the last errors."""
    console = make_console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("RANK", "STATE", "STAGE", "GROUP", "LIFE", "NODE", "PID", "DEVICES"):
        table.add_column(heading)
    for heading in ("RUNNING", "WAITING", "CREDIT", "KV", "TOK/S", "STEP AGE", "RESTARTS"):
        table.add_column(heading, justify="right")
    for rank in ranks:
        table.add_row(*_cells(rank))
    console.print(table)
    for rank in ranks:
        if rank.get("last_error"):
            console.print(f"rank {rank.get('rank')}: {rank['last_error']}", style="red", markup=False, highlight=False)


def _cells(rank: Rank) -> list[str]:
    state = str(rank.get("state", "?"))
    color = COLORS.get(state)
    return [
        str(rank.get("rank", "?")),
        f"[{color}]{state}[/]" if color else state,
        _stage(rank),
        _text(rank.get("group")),
        _text(rank.get("incarnation")),
        _text(rank.get("node_rank")),
        _text(rank.get("pid")),
        _devices(rank),
        _text(rank.get("running")),
        _text(rank.get("waiting")),
        _text(rank.get("credit")),
        _number(rank.get("kv_cache_usage"), 100, "%"),
        _number(rank.get("tokens_per_s")),
        _number(rank.get("step_age_s"), unit="s", digits=1),
        _text(rank.get("restarts")),
    ]


def _stage(rank: Rank) -> str:
    progress = rank.get("progress")
    return _text(rank.get("stage")) + ("" if progress is None else f" {progress:.0%}")


def _devices(rank: Rank) -> str:
    if gpus := rank.get("gpus"):
        return "GPU " + ",".join(map(str, gpus))
    return f"cores {rank['cores']}" if rank.get("cores") else "-"


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def _number(value: float | None, factor: float = 1, unit: str = "", digits: int = 0) -> str:
    return "-" if value is None else f"{value * factor:,.{digits}f}{unit}"
