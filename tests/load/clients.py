"""httpx clients that post batches to a service, each one after another, until their time is up.

A client that is told to come back later (429 or 503) waits as long as Retry-After says, and sends the same batch again.
"""

import asyncio
import itertools
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from bench.workload import BEGINNINGS
from tests.load.tally import Tally

CONNECT_TIMEOUT_S = 10.0
ERROR_PAUSE_S = 0.5  # after an error that does not say how long to wait


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

    def body(self, request: int) -> dict[str, object]:
        """What is posted. Prompts differ from their first word on, so that no prefix cache shortens the work."""
        first = request * self.prompts_per_request
        prompts = [
            f"{number}. {BEGINNINGS[number % len(BEGINNINGS)]}"
            for number in range(first, first + self.prompts_per_request)
        ]
        return {"prompts": prompts, "sampling_params": {"max_tokens": self.max_tokens}}


async def put_under_load(plan: LoadPlan) -> Tally:
    """Runs all clients to their end. Requests that were sent in time are waited for."""
    tally = Tally()
    requests = itertools.count()
    context = ssl.create_default_context()  # made once: a client would read all certificates for its own
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(plan.clients):
            client = _run_client(plan, requests, tally, began + plan.duration_s, context)
            tasks.create_task(client, name=f"client {number}")
    tally.seconds = time.monotonic() - began
    return tally


async def _run_client(
    plan: LoadPlan, requests: Iterator[int], tally: Tally, ends: float, context: ssl.SSLContext
) -> None:
    headers = {"Authorization": f"Bearer {plan.api_key}"} if plan.api_key else {}
    timeout = httpx.Timeout(plan.timeout_s, connect=min(CONNECT_TIMEOUT_S, plan.timeout_s))
    async with httpx.AsyncClient(
        base_url=plan.url, headers=headers, timeout=timeout, trust_env=False, verify=context
    ) as http:
        body = plan.body(next(requests))
        while time.monotonic() < ends:
            wait_s = await _post(http, body, plan.timeout_s, tally)
            if wait_s is None:
                body = plan.body(next(requests))
            else:
                await asyncio.sleep(min(wait_s, max(0.0, ends - time.monotonic())))


async def _post(http: httpx.AsyncClient, body: dict[str, object], timeout_s: float, tally: Tally) -> float | None:
    """None when it has an answer; otherwise how long to wait before it is sent again."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(timeout_s):
            answer = await http.post("/v1/batch_generate", json=body)
    except (httpx.HTTPError, TimeoutError) as error:
        tally.broke(error)
        return ERROR_PAUSE_S
    if answer.status_code != httpx.codes.OK:
        tally.refused(answer.status_code, answer.content)
        return _retry_after_s(answer)
    tally.answered(time.monotonic() - began, answer.content)
    return None


def _retry_after_s(answer: httpx.Response) -> float:
    """As the header says, in seconds; a proxy may send a date, or nothing."""
    said = answer.headers.get("retry-after", "")
    return float(said) if said.isdecimal() else ERROR_PAUSE_S
