"""Clients that post batches to a service, each one after another, until their time is up.

Whole answers are asked for with bare httpx, for the package's client has streams only; streams through that client,
which is told to have no patience. Whoever is told to come back later (429 or 503) is counted, waits as long as
Retry-After says, and sends the same batch again.
"""

import asyncio
import itertools
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import httpx

import phalanx
from bench.workload import BEGINNINGS
from phalanx.client import PhalanxError, Refused
from phalanx.client.exchange import Prompt
from tests.load.tally import Tally

CONNECT_TIMEOUT_S = 10.0
ERROR_PAUSE_S = 0.5  # after an error that does not say how long to wait

# Sends prompts. None when they have an answer; otherwise how long to wait before they are sent again, in seconds.
Send = Callable[[list[Prompt]], Awaitable[float | None]]


@dataclass(frozen=True)
class LoadPlan:
    """So many clients, with one request each at any time, for so long."""

    url: str
    api_key: str | None
    clients: int
    duration_s: float
    prompts_per_request: int
    max_tokens: int
    timeout_s: float  # for one request, from sending it to the last byte of its answer
    is_streamed: bool

    @property
    def sampling_params(self) -> dict[str, int]:
        """Of all prompts."""
        return {"max_tokens": self.max_tokens}

    def prompts(self, request: int) -> list[Prompt]:
        """They differ from their first word on, so that no prefix cache shortens the work."""
        first = request * self.prompts_per_request
        return [
            f"{number}. {BEGINNINGS[number % len(BEGINNINGS)]}"
            for number in range(first, first + self.prompts_per_request)
        ]


async def put_under_load(plan: LoadPlan) -> Tally:
    """Runs all clients to their end. Requests that were sent in time are waited for."""
    tally = Tally()
    requests = itertools.count()
    context = ssl.create_default_context()  # made once: a client would read all certificates for its own
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(plan.clients):
            sending = _streaming(plan, tally) if plan.is_streamed else _posting(plan, tally, context)
            client = _run_client(plan, requests, sending, began + plan.duration_s)
            tasks.create_task(client, name=f"client {number}")
    tally.seconds = time.monotonic() - began
    return tally


async def _run_client(
    plan: LoadPlan, requests: Iterator[int], sending: AbstractAsyncContextManager[Send], ends: float
) -> None:
    async with sending as send:
        prompts = plan.prompts(next(requests))
        while time.monotonic() < ends:
            wait_s = await send(prompts)
            if wait_s is None:
                prompts = plan.prompts(next(requests))
            else:
                await asyncio.sleep(min(wait_s, max(0.0, ends - time.monotonic())))


@asynccontextmanager
async def _posting(plan: LoadPlan, tally: Tally, context: ssl.SSLContext) -> AsyncIterator[Send]:
    """For whole answers."""
    headers = {"Authorization": f"Bearer {plan.api_key}"} if plan.api_key else {}
    timeout = httpx.Timeout(plan.timeout_s, connect=min(CONNECT_TIMEOUT_S, plan.timeout_s))
    http = httpx.AsyncClient(base_url=plan.url, headers=headers, timeout=timeout, trust_env=False, verify=context)

    async def send(prompts: list[Prompt]) -> float | None:
        began = time.monotonic()
        body = {"prompts": prompts, "sampling_params": plan.sampling_params}
        try:
            async with asyncio.timeout(plan.timeout_s):
                answer = await http.post("/v1/batch_generate", json=body)
        except (httpx.HTTPError, TimeoutError) as error:
            tally.broke(error)
            return ERROR_PAUSE_S
        if answer.status_code != httpx.codes.OK:
            tally.refused(answer.status_code, answer.content)
            return _retry_after_s(answer)
        tally.answered(time.monotonic() - began, answer.content)
        return None

    async with http:
        yield send


@asynccontextmanager
async def _streaming(plan: LoadPlan, tally: Tally) -> AsyncIterator[Send]:
    """For streams."""
    client = phalanx.AsyncClient(plan.url, api_key=plan.api_key, silence_s=plan.timeout_s, patience_s=0)

    async def send(prompts: list[Prompt]) -> float | None:
        began = time.monotonic()
        try:
            async with (
                asyncio.timeout(plan.timeout_s),
                client.generate(prompts, sampling_params=plan.sampling_params) as stream,
            ):
                results = [result async for result in stream]
        except Refused as error:
            tally.turned_away(error.status, error.code)
            return error.retry_after_s or ERROR_PAUSE_S
        except (PhalanxError, TimeoutError) as error:
            tally.broke(error)
            return ERROR_PAUSE_S
        tally.streamed(time.monotonic() - began, results)
        return None

    async with client:
        yield send


def _retry_after_s(answer: httpx.Response) -> float:
    """As the header says, in seconds; a proxy may send a date, or nothing."""
    said = answer.headers.get("retry-after", "")
    return float(said) if said.isdecimal() else ERROR_PAUSE_S
