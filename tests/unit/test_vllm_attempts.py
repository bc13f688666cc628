"""One result for every attempt, whenever it is given up. vLLM is played; rendering and parameters are, too."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from simulated_bench import text

from engines.protocol import ItemErrorCode, Outcome, Result, Run, RunItem
from engines.spec import EngineKind, GroupKind, RankSpec
from engines.vllm_engine.engine import VllmEngine

SPEC = RankSpec(
    rank=0,
    incarnation=1,
    dp_size=1,
    tp_size=1,
    engine=EngineKind.VLLM,
    group_kind=GroupKind.REPLICAS,
    expert_parallel=False,
    model="played",
    endpoint="",
    directory="",
    log_file="",
    device="cpu",
)


class Played:
    """An AsyncLLM that generates until it is cancelled, and renders all prompts but one."""

    model_config = SimpleNamespace(max_model_len=100)

    def __init__(self) -> None:
        self.generating: set[str] = set()

    async def generate(self, _: object, __: object, attempt: str) -> AsyncIterator[Any]:
        self.generating.add(attempt)
        try:
            await asyncio.Event().wait()
        finally:
            self.generating.discard(attempt)
        yield None

    def render(self, item: RunItem) -> tuple[object, int]:
        if b"stumble" in item.prompt:
            raise KeyError("stumbled")
        return object(), 3

    def template(self, _: bytes) -> object:
        return object()

    def for_item(self, *_: object) -> object:
        return object()


class Bench:
    def __init__(self) -> None:
        self.results: dict[int, Result] = {}
        self.llm = Played()
        self.engine = VllmEngine(SPEC, self._emit, lambda reason: None)
        self.engine._llm = self.engine._renderer = self.engine._sampling = self.llm
        self.engine._submitter = asyncio.create_task(self.engine._submit_queued(), name="submitter")

    def _emit(self, result: Result) -> None:
        assert result.attempt not in self.results, "an attempt got two results"
        self.results[result.attempt] = result

    def submit(self, *items: RunItem) -> None:
        self.engine.submit(Run(incarnation=1, params=[b"\x80"], items=list(items)))

    async def turns(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)


def play(scenario: Callable[[Bench], Awaitable[None]]) -> None:
    async def run() -> None:
        bench = Bench()
        await asyncio.wait_for(scenario(bench), 10)
        bench.engine._llm = None  # there is nothing to shut down
        await bench.engine.close()
        assert not bench.engine._tasks

    asyncio.run(run())


def test_an_attempt_that_is_given_up_gets_its_result_in_any_turn_of_the_loop() -> None:
    """Also in the one between the making of its task and the task's first step."""

    async def scenario(bench: Bench) -> None:
        for turns in range(6):
            bench.submit(text(turns))
            await bench.turns(turns)
            bench.engine.abort([turns])
            await bench.turns(6)
            assert bench.results[turns].outcome is Outcome.ABORTED
            assert not bench.llm.generating
            bench.engine.abort([turns])

    play(scenario)


def test_an_item_that_cannot_be_prepared_does_not_keep_the_next_from_running() -> None:
    async def scenario(bench: Bench) -> None:
        bench.submit(text(1, "stumble"), text(2))
        await bench.turns(6)
        error = bench.results[1].error
        assert error is not None
        assert (error.code, error.message) == (ItemErrorCode.ENGINE_ERROR, "KeyError: 'stumbled'")
        assert bench.llm.generating == {"2"}
        bench.engine.abort([2])
        await bench.turns(6)
        assert bench.results[2].outcome is Outcome.ABORTED

    play(scenario)
