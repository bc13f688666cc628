"""Many httpx clients at once, in processes of their own, which check every answer they get.

A load is numbered items, cut into requests. An item's prompt is its number and its custom_id too, so that an answer
that went to the wrong place is seen; the checksums of the texts let loads of the same items be compared.
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import ssl
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

TIMEOUT_S = 300.0
ERRORS_KEPT = 20
CHARACTERS_PER_TOKEN = 4  # as the simulated engine counts


@dataclass(frozen=True)
class Load:
    """Requests of so many items, from so many clients; each client has a connection of its own."""

    requests: int
    items_per_request: int
    clients: int
    prompt_tokens: int = 32
    tokens: int = 16
    is_streamed: bool = False

    @property
    def items(self) -> int:
        """Altogether."""
        return self.requests * self.items_per_request

    @property
    def name(self) -> str:
        """For a table."""
        return f"{self.requests} x {self.items_per_request}{' streamed' if self.is_streamed else ''}"

    def body(self, request: int) -> dict[str, Any]:  # Any: JSON
        """What is posted as request number `request`."""
        first = request * self.items_per_request
        prompts = [
            {"custom_id": f"item-{item}", "prompt": self._prompt(item)}
            for item in range(first, first + self.items_per_request)
        ]
        return {"prompts": prompts, "sampling_params": {"max_tokens": self.tokens}, "stream": self.is_streamed}

    def _prompt(self, item: int) -> str:
        return f"item {item:08} ".ljust(self.prompt_tokens * CHARACTERS_PER_TOKEN, "x")


def add_load_flags(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Of a measurement that puts `loads_of` on a gateway, round after round."""
    add_size_flags(parser)
    parser.add_argument("--rounds", type=int, default=rounds, help="after one to warm up (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="that the clients run in (%(default)s)")


def add_size_flags(parser: argparse.ArgumentParser) -> None:
    """What `loads_of` are made of."""
    add = parser.add_argument
    add("--items", type=int, default=10_000, help="in the one large request, and in all small ones (%(default)s)")
    add("--clients", type=int, default=200)
    add("--prompt-tokens", type=int, default=32)
    add("--tokens", type=int, default=16, help="of each answer (%(default)s)")


def loads_of(given: argparse.Namespace) -> list[Load]:
    """One large request, ten clients with some of a hundred items, and many small ones from many clients."""
    sizes = {"prompt_tokens": given.prompt_tokens, "tokens": given.tokens}
    return [
        Load(1, given.items, 1, **sizes),
        Load(given.items // 100, 100, 10, **sizes),
        Load(given.items // 5, 5, given.clients, **sizes),
    ]


@dataclass
class LoadReport:
    """What the clients saw."""

    began: float = 0.0  # time.monotonic(), which all processes of a machine share
    ended: float = 0.0
    errors: list[str] = field(default_factory=list)
    error_count: int = 0
    latencies_s: list[float] = field(default_factory=list)
    texts: dict[int, int] = field(default_factory=dict)  # item -> checksum of its text
    items_by_rank: dict[int, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From the first request's beginning to the last one's end."""
        return self.ended - self.began

    def blame(self, reason: str) -> None:
        """Something was wrong with an answer."""
        self.error_count += 1
        if len(self.errors) < ERRORS_KEPT:
            self.errors.append(reason)

    def add(self, other: "LoadReport") -> None:
        """What other clients saw of the same load."""
        self.began = min(self.began, other.began)
        self.ended = max(self.ended, other.ended)
        self.error_count += other.error_count
        self.errors = (self.errors + other.errors)[:ERRORS_KEPT]
        self.latencies_s += other.latencies_s
        for item in self.texts.keys() & other.texts.keys():
            self.blame(f"item {item} was answered twice")
        self.texts |= other.texts
        for rank, items in other.items_by_rank.items():
            self.items_by_rank[rank] = self.items_by_rank.get(rank, 0) + items


class LoadClients:
    """Processes that put a service under load. Use it as a context manager."""

    def __init__(self, url: str, processes: int) -> None:
        self._url = url
        self._processes = processes
        self._pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))

    def __enter__(self) -> "LoadClients":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def run(self, load: Load) -> LoadReport:
        """Puts the load on the service, once, and waits for all answers."""
        processes = min(self._processes, load.clients)
        parts = [
            self._pool.submit(run_clients, self._url, load, range(part, load.requests, processes), clients)
            for part, clients in enumerate(_deal(load.clients, processes))
        ]
        first, *others = (part.result() for part in parts)
        for other in others:
            first.add(other)
        if not first.error_count and len(first.texts) != load.items:
            first.blame(f"{len(first.texts)} of {load.items} items were answered")
        return first


def _deal(clients: int, processes: int) -> list[int]:
    return [clients // processes + (part < clients % processes) for part in range(processes)]


def run_clients(url: str, load: Load, requests: range, clients: int) -> LoadReport:
    """In a process of its own: these requests of the load, from so many clients at once."""
    return asyncio.run(_run_clients(url, load, requests, clients))


async def _run_clients(url: str, load: Load, requests: range, clients: int) -> LoadReport:
    context = ssl.create_default_context()  # made once: a client would read all certificates for its own
    report = LoadReport()
    queue = iter(requests)
    report.began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(_one_client(url, load, queue, context, report))
    report.ended = time.monotonic()
    return report


async def _one_client(url: str, load: Load, queue: Iterator[int], context: ssl.SSLContext, report: LoadReport) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, trust_env=False, verify=context) as client:
        for request in queue:
            began = time.monotonic()
            try:
                answer = await client.post("/v1/batch_generate", json=load.body(request))
            except httpx.HTTPError as error:
                report.blame(f"request {request}: {type(error).__name__}: {error}")
                continue
            report.latencies_s.append(time.monotonic() - began)
            if answer.status_code != 200:
                report.blame(f"request {request}: {answer.status_code} {answer.text[:300]}")
            else:
                _check(load, request, _results(load, answer), report)


def _results(load: Load, answer: httpx.Response) -> list[dict[str, Any]]:
    """In the order of the prompts. Those of a stream without a summary are not there."""
    if not load.is_streamed:
        found: list[dict[str, Any]] = answer.json()["results"]
        return found
    lines = [json.loads(line) for line in answer.text.splitlines()]
    if lines[-1]["object"] != "batch_generation.summary":
        return []
    return sorted((line for line in lines if "index" in line), key=lambda line: line["index"])


def _check(load: Load, request: int, results: list[dict[str, Any]], report: LoadReport) -> None:
    """Every item is there once, in order, and ok."""
    if len(results) != load.items_per_request:
        report.blame(f"request {request}: {len(results)} results for {load.items_per_request} items")
    first = request * load.items_per_request
    for index, result, item in zip(
        itertools.count(), results, range(first, first + load.items_per_request), strict=False
    ):
        if (result["index"], result["custom_id"]) != (index, f"item-{item}"):
            report.blame(f"request {request}: result {index} is {result['index']}, {result['custom_id']}")
        elif result["status"] != "ok":
            report.blame(f"item {item}: {result.get('error', result['status'])}")
        else:
            report.texts[item] = zlib.crc32(result["outputs"][0]["text"].encode())
            report.items_by_rank[result["rank"]] = report.items_by_rank.get(result["rank"], 0) + 1
