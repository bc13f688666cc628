"""One result for every attempt, whenever it is given up. vLLM is played; rendering and parameters are, too."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from rank_specs import rank_spec
from simulated_bench import text

from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import Outcome, Result, Run, RunItem
from engines.vllm_engine.engine import VllmEngine
from engines.vllm_engine.logprobs import FEWEST, LogprobsRoom

SPEC = rank_spec()


UNCHECKED = b"\x81"  # parameters with a structure that nobody has checked


class Played:
    """An AsyncLLM that generates until it is cancelled, and renders all prompts but one."""

    model_config = SimpleNamespace(max_model_len=100, get_vocab_size=lambda: 1000)
    errored = False
    failure: Exception | None = None  # what generating ends with

    def __init__(self) -> None:
        self.generating: set[str] = set()
        self.ended = asyncio.Event()
        self.verdict = asyncio.Event()  # on the parameters that are not checked
        self.refusal: ItemError | None = None
        self.rendered_in: list[str] = []  # threads
        unset = dict.fromkeys(("logprobs", "logprob_token_ids", "prompt_logprobs", "structure_use"))
        self.sampling = SimpleNamespace(n=1, max_tokens=10, **unset)

    async def generate(self, _: object, __: object, attempt: str) -> AsyncIterator[Any]:
        self.generating.add(attempt)
        try:
            await self.ended.wait()
            if self.failure is not None:
                raise self.failure
        finally:
            self.generating.discard(attempt)
        yield None

    def render(self, item: RunItem) -> tuple[object, int]:
        self.rendered_in.append(threading.current_thread().name)
        if b"stumble" in item.prompt:
            raise KeyError("stumbled")
        return {"prompt_token_ids": [1, 2, 3]}, 3

    def is_large(self, item: RunItem) -> bool:
        return b"large" in item.prompt

    def template(self, params: bytes) -> object:
        return None if params == UNCHECKED and not self.verdict.is_set() else object()

    async def checked(self, params: bytes) -> object:
        if params == UNCHECKED:
            await self.verdict.wait()
        return self.refusal or object()

    def for_item(self, *_: object) -> object:
        return self.sampling


class Bench:
    def __init__(self) -> None:
        self.results: dict[int, Result] = {}
        self.llm = Played()
        self.deaths: list[str] = []
        self.engine = VllmEngine(SPEC, self._emit, self.deaths.append)
        self.engine._llm = self.engine._renderer = self.engine._sampling = self.llm
        self.engine._submitter = asyncio.create_task(self.engine._submit_queued(), name="submitter")

    def _emit(self, result: Result) -> None:
        assert result.attempt not in self.results, "an attempt got two results"
        self.results[result.attempt] = result

    def submit(self, *items: RunItem, params: bytes = b"\x80") -> None:
        self.engine.submit(Run(incarnation=1, params=[params], items=list(items)))

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


def test_who_waits_for_a_verdict_keeps_nobody_else_waiting() -> None:
    async def scenario(bench: Bench) -> None:
        bench.submit(text(1), text(2), params=UNCHECKED)
        bench.submit(text(3))
        await bench.turns(6)
        assert bench.llm.generating == {"3"}
        bench.engine.abort([2])
        await bench.turns(6)
        assert bench.results[2].outcome is Outcome.ABORTED
        bench.llm.verdict.set()
        await bench.turns(6)
        assert bench.llm.generating == {"1", "3"}

    play(scenario)


def test_a_verdict_against_it_is_the_items_error() -> None:
    async def scenario(bench: Bench) -> None:
        bench.llm.refusal = ItemError(ItemErrorCode.INVALID_SAMPLING_PARAMS, "it explodes")
        bench.submit(text(1), params=UNCHECKED)
        await bench.turns(3)
        assert not bench.results
        bench.llm.verdict.set()
        await bench.turns(6)
        assert bench.results[1].error == bench.llm.refusal
        assert not bench.llm.generating

    play(scenario)


def test_a_large_prompt_is_rendered_beside_the_loop() -> None:
    async def scenario(bench: Bench) -> None:
        bench.submit(text(1, "large"), text(2), text(3, "large stumble"))
        async with asyncio.timeout(10):
            while not (3 in bench.results and {"1", "2"} <= bench.llm.generating):  # noqa: ASYNC110  two threads
                await asyncio.sleep(0.001)
        error = bench.results[3].error
        assert error is not None
        assert error.message == "KeyError: 'stumbled'"
        assert sorted(name.partition("_")[0] for name in bench.llm.rendered_in) == ["MainThread", "aside", "aside"]

    play(scenario)


def test_items_beyond_the_room_for_their_logprobs_wait_and_run_when_others_have_ended() -> None:
    async def scenario(bench: Bench) -> None:
        bench.llm.sampling.logprobs = 20
        bench.llm.sampling.max_tokens = bench.engine._logprobs.most // 20 // 2
        bench.submit(*(text(number) for number in range(1, 6)))
        await bench.turns(8)
        assert bench.llm.generating == {"1", "2"}
        bench.engine.abort([4, 1])  # one that waits, and one that runs
        await bench.turns(12)
        assert bench.results[4].outcome is bench.results[1].outcome is Outcome.ABORTED
        assert bench.llm.generating == {"2", "3"}
        bench.engine.abort([2, 3])
        await bench.turns(12)
        assert bench.llm.generating == {"5"}

    play(scenario)


def test_there_is_room_for_some_logprobs_on_any_machine() -> None:
    assert LogprobsRoom(ranks=10**9).most == FEWEST
    assert LogprobsRoom(ranks=1).most >= LogprobsRoom(ranks=2).most


def test_an_item_with_more_logprobs_than_there_is_room_for_is_refused() -> None:
    async def scenario(bench: Bench) -> None:
        bench.llm.sampling.prompt_logprobs = -1
        tokens = bench.engine._logprobs.most // 20
        bench.llm.sampling.n, bench.llm.sampling.max_tokens, bench.llm.sampling.logprobs = 2, tokens, 20
        bench.submit(text(1))
        await bench.turns(8)
        error = bench.results[1].error
        assert error is not None
        assert (error.code, error.param) == (ItemErrorCode.INVALID_SAMPLING_PARAMS, "sampling_params.logprobs")
        assert f"may come to have {2 * tokens * 20 + 3 * 1000} logprobs" in error.message

    play(scenario)


@pytest.mark.parametrize("order", [[1, 2], [2, 1]])
def test_room_for_logprobs_comes_back_in_whatever_order_items_are_given_up(order: list[int]) -> None:
    async def scenario(bench: Bench) -> None:
        bench.llm.sampling.logprobs = 20
        bench.llm.sampling.max_tokens = bench.engine._logprobs.most // 20
        bench.submit(text(1), text(2))
        await bench.turns(8)
        assert bench.llm.generating == {"1"}
        bench.engine.abort(order)
        await bench.turns(12)
        assert [bench.results[attempt].outcome for attempt in (1, 2)] == [Outcome.ABORTED] * 2
        bench.submit(text(3))
        await bench.turns(8)
        assert bench.llm.generating == {"3"}

    play(scenario)


def test_what_all_requests_end_with_is_the_engines_death_and_nobodys_fault() -> None:
    """vLLM's output handler stumbles over one request, and passes what it stumbled over to all of them."""

    async def scenario(bench: Bench) -> None:
        bench.submit(text(1), text(2))
        await bench.turns(8)
        bench.llm.failure, bench.llm.errored = TypeError("somebody else's"), True
        bench.llm.ended.set()
        await bench.turns(8)
        assert not bench.results
        assert bench.deaths == ["vLLM's engine is dead: somebody else's"] * 2

    play(scenario)


def test_an_attempt_is_no_suspect_before_the_engine_has_it() -> None:
    async def scenario(bench: Bench) -> None:
        load = bench.engine.load
        bench.submit(text(1), text(2))
        bench.submit(text(3), params=UNCHECKED)
        assert sorted(bench.engine.untouched()) == [1, 2, 3]
        await bench.turns(8)
        assert bench.engine.untouched() == [3]
        assert (load.given, load.prepared) == (2, 2)
        bench.engine.abort([1, 2, 3])
        await bench.turns(8)
        assert not bench.engine.untouched()
        assert load.given == 0

    play(scenario)


def test_time_before_the_engine_has_anything_is_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither while the model was loaded nor while a structure was checked: a stall would be found ten times later."""
    now = 1000.0
    monkeypatch.setattr("engines.rank.engine.time", SimpleNamespace(monotonic=lambda: now))

    async def scenario(bench: Bench) -> None:
        nonlocal now
        load = bench.engine.load
        now += 180  # it loads
        load.step()
        load.reset()
        assert (load.steps, load.longest_step_s, load.last_step_at) == (0, 0.0, None)
        bench.submit(text(1), params=UNCHECKED)
        await bench.turns(8)
        now += 20
        bench.llm.verdict.set()
        await bench.turns(8)
        now += 0.5
        load.step()
        assert load.longest_step_s == 0.5

    play(scenario)
