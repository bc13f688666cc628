"""Drives a simulated engine on an asyncio loop, for the tests beside this file."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from rank_specs import rank_spec

from engines.contract.protocol import Outcome, PromptKind, RankFacts, Result, Run, RunItem, Stage
from engines.contract.spec import EngineKind
from engines.simulated.engine import SimulatedEngine

DEADLINE_S = 10.0


class Bench:
    """An engine, what it emitted, and how it died."""

    def __init__(self, **engine_args: Any) -> None:
        self.results: dict[int, Result] = {}
        self.deaths: list[str] = []
        self.stages: list[Stage] = []
        spec = rank_spec(rank=3, dp_size=4, engine=EngineKind.SIMULATED, model="simulated", engine_args=engine_args)
        self.engine = SimulatedEngine(spec, self._emit, self.deaths.append)

    def _emit(self, result: Result) -> None:
        assert result.attempt not in self.results, "an attempt got two results"
        self.results[result.attempt] = result

    async def start(self) -> RankFacts:
        return await self.engine.start(self.stages.append)

    def submit(self, *items: RunItem, **params: Any) -> None:
        self.engine.submit(Run(incarnation=1, params=[msgspec.msgpack.encode(params)], items=list(items)))

    async def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"it never came; results: {self.results}, deaths: {self.deaths}"
            await asyncio.sleep(0.001)

    async def results_of(self, *attempts: int) -> list[Result]:
        await self.until(lambda: all(attempt in self.results for attempt in attempts))
        return [self.results[attempt] for attempt in attempts]

    async def ask(self, item: RunItem, **params: Any) -> Result:
        self.submit(item, **params)
        return (await self.results_of(item.attempt))[0]


def text(attempt: int, prompt: str = "Hello, my name is", **fields: Any) -> RunItem:
    return RunItem(attempt, PromptKind.TEXT, msgspec.json.encode(prompt), 0, **fields)


def ids(attempt: int, tokens: Any) -> RunItem:
    return RunItem(attempt, PromptKind.TOKEN_IDS, msgspec.json.encode(tokens), 0)


def chat(attempt: int, messages: Any, **fields: Any) -> RunItem:
    return RunItem(attempt, PromptKind.CHAT, msgspec.json.encode(messages), 0, **fields)


def outputs(result: Result) -> list[dict[str, Any]]:
    assert result.outcome is Outcome.OK, result.error
    decoded: list[dict[str, Any]] = msgspec.json.decode(result.outputs)
    return decoded


def drive(scenario: Callable[[Bench], Awaitable[None]], **engine_args: Any) -> Bench:
    """Runs a scenario on a started engine, and closes it."""

    async def run() -> Bench:
        bench = Bench(**engine_args)
        await bench.start()
        await asyncio.wait_for(scenario(bench), DEADLINE_S)
        await bench.engine.close()
        return bench

    return asyncio.run(run())
