"""What a worker of a peer does: the simulated engine's work (engines/simulated), without the rank around it.

A worker has so many slots. Items take them in the order in which they come, for as many steps as their answers have
tokens, and all steps take the same time. Where a step takes no time, an item is answered when it comes.
"""

import argparse
import heapq
import json
import time
from collections import deque
from typing import Any, Generic, TypeVar

import msgspec

from engines.contract.sampling import SamplingFields
from engines.simulated.answers import Plan, Planner, generate, hash_of
from engines.simulated.prompts import PIECE_LENGTH

Job = TypeVar("Job")
Json = dict[str, Any]  # Any: JSON
PATH = "/v1/batch_generate"


def add_service_flags(parser: argparse.ArgumentParser) -> None:
    """What every service is told."""
    add = parser.add_argument
    add("--port", type=int, required=True)
    add("--workers", type=int, default=2)
    add("--slots", type=int, required=True, help="items that a worker runs at once")
    add("--step-ms", type=float, required=True, help="0: items are answered at once")


class Slots(Generic[Job]):
    """Who runs, who waits, and when the next step is due. Times are those of time.monotonic()."""

    def __init__(self, slots: int, step_s: float) -> None:
        self._slots = slots
        self._step_s = step_s
        self._waiting: deque[tuple[Job, int]] = deque()
        self._ends: list[tuple[int, int, Job]] = []  # heap: step, number, job
        self._steps = 0
        self._number = 0
        self._due_at = 0.0

    def add(self, job: Job, steps: int, now: float) -> None:
        """A job runs from now on if a slot is free, else as soon as one is."""
        if not self._ends:
            self._due_at = now + self._step_s
        self._waiting.append((job, steps))
        self._admit()

    def wait_s(self, now: float) -> float | None:
        """How long until the next step; None where nothing runs."""
        return max(0.0, self._due_at - now) if self._ends else None

    def advance(self, now: float) -> list[Job]:
        """Makes the steps that are due, and gives the jobs that ended with them."""
        done: list[Job] = []
        while self._ends and self._due_at <= now:
            self._steps += 1
            self._due_at += self._step_s
            while self._ends and self._ends[0][0] <= self._steps:
                done.append(heapq.heappop(self._ends)[2])
            self._admit()
        return done

    def _admit(self) -> None:
        while self._waiting and len(self._ends) < self._slots:
            job, steps = self._waiting.popleft()
            self._number += 1
            heapq.heappush(self._ends, (self._steps + steps, self._number, job))


class Writer:
    """Writes the very texts that the simulated engine writes, in the shape of Phalanx's results."""

    def __init__(self) -> None:
        self._planner = Planner()
        self._wires: dict[bytes, bytes] = {}  # parameters as the gateway encodes them, which texts depend on

    def write(self, index: int, item: Json, shared: Json) -> tuple[Json, int]:
        """The result of one prompt of a request, and how many steps it takes."""
        params = shared | (item.get("sampling_params") or {})
        plan = self._planner.plan(self._wire(params))
        if not isinstance(plan, Plan):
            raise TypeError(f"sampling_params: {plan.message}")
        prompt = json.dumps(item["prompt"]).encode()
        (sequence,) = generate(plan, hash_of(plan.salt, b"", b"", prompt), plan.max_tokens)
        prompt_tokens = len(item["prompt"]) // PIECE_LENGTH
        output = sequence.output
        result = {
            "object": "batch_generation.result",
            "index": index,
            "custom_id": item.get("custom_id"),
            "status": "ok",
            "outputs": [
                {
                    "index": 0,
                    "text": output.text,
                    "finish_reason": output.finish_reason,
                    "stop_reason": output.stop_reason,
                }
            ],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": sequence.tokens,
                "total_tokens": prompt_tokens + sequence.tokens,
            },
        }
        return result, sequence.tokens

    def _wire(self, params: Json) -> bytes:
        key = msgspec.msgpack.encode(params)
        if key not in self._wires:
            self._wires[key] = msgspec.msgpack.encode(msgspec.convert(params, SamplingFields))
        return self._wires[key]


def run_all(requests: list[Json], writer: Writer, slots: int, step_s: float) -> list[list[Json]]:
    """The results of some requests, which run together, with no others beside them."""
    written = [
        [writer.write(index, item, request["sampling_params"]) for index, item in enumerate(request["prompts"])]
        for request in requests
    ]
    if step_s:
        running: Slots[None] = Slots(slots, step_s)
        for _, steps in (pair for pairs in written for pair in pairs):
            running.add(None, steps, time.monotonic())
        while (wait_s := running.wait_s(time.monotonic())) is not None:
            time.sleep(wait_s)
            running.advance(time.monotonic())
    return [[result for result, _ in pairs] for pairs in written]
