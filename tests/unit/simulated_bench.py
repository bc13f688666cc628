"""Drives a simulated engine on an asyncio loop, for the tests beside this file."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from rank_specs import rank_spec

from engines.contract.exchanges import Exchange, ExchangeHead
from engines.contract.protocol import Chunk, Outcome, PromptKind, RankFacts, Result, Run, RunItem, Stage
from engines.contract.spec import EngineKind
from engines.simulated.engine import SimulatedEngine

DEADLINE_S = 10.0


class Bench:
    """An engine, what it emitted, and how it died."""

    def __init__(self, **engine_args: Any) -> None:
        self.results: dict[int, Result] = {}
        self.chunks: dict[int, list[Chunk]] = {}
        self.deaths: list[str] = []
        self.stages: list[Stage] = []
        spec = rank_spec(rank=3, dp_size=4, engine=EngineKind.SIMULATED, model="simulated", engine_args=engine_args)
        self.engine = SimulatedEngine(spec, self._emit, self.deaths.append)

    def _emit(self, what: Result | Chunk) -> None:
        assert what.attempt not in self.results, "an attempt got something after its result"
        if isinstance(what, Chunk):
            self.chunks.setdefault(what.attempt, []).append(what)
        else:
            self.results[what.attempt] = what

    async def start(self) -> RankFacts:
        return await self.engine.start(self.stages.append)

    def submit(self, *items: RunItem, **params: Any) -> None:
        self.engine.submit(Run(incarnation=1, params=[msgspec.msgpack.encode(params)], items=list(items)))

    def exchange(self, attempt: int, path: Exchange, body: Any) -> None:
        """Submits an exchange; its request has the attempt's number for an id."""
        encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
        head = ExchangeHead(path, f"{attempt}", streams=isinstance(body, dict) and bool(body.get("stream")))
        item = RunItem(attempt, PromptKind.EXCHANGE, encoded, 0)
        self.engine.submit(Run(incarnation=1, params=[head.encode()], items=[item]))

    async def answer(self, attempt: int, path: Exchange, body: Any, status: int = 200) -> dict[str, Any]:
        """The body of an answer that comes whole."""
        self.exchange(attempt, path, body)
        (result,) = await self.results_of(attempt)
        assert result.outcome is Outcome.OK and result.head is not None
        assert (result.head.status, result.head.content_type) == (status, "application/json")
        assert attempt not in self.chunks
        decoded: dict[str, Any] = msgspec.json.decode(result.outputs)
        return decoded

    def streamed(self, attempt: int) -> list[dict[str, Any]]:
        """What has come of a stream, which has ended as it should."""
        *events, done, nothing = self.streamed_bytes(attempt).split(b"\n\n")
        assert (done, nothing) == (b"data: [DONE]", b"")
        return [msgspec.json.decode(event.removeprefix(b"data: ")) for event in events]

    def streamed_bytes(self, attempt: int) -> bytes:
        return b"".join(chunk.body for chunk in self.chunks[attempt])

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
