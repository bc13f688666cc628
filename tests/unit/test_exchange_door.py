"""What a call hears of the engine behind the application's back. vLLM's engine is played."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from engines.rank.engine import EngineLoad
from engines.vllm_engine.exchanges.door import Door, Lost, current_call
from engines.vllm_engine.exchanges.gate import EngineBusy
from engines.vllm_engine.exchanges.usage import CallUsage
from engines.vllm_engine.given import Given
from engines.vllm_engine.logprobs import LogprobsRoom

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # vLLM's imports


class Heard:
    """A Call that keeps what it hears."""

    attempt = 7
    has_output = False

    def __init__(self) -> None:
        self.trace_context: dict[str, Any] = {}
        self.refusals: list[str] = []
        self.busy: list[str] = []
        self.lost: list[str | None] = []
        self.usage_of_request = CallUsage().of_request

    def refuse(self, error: Exception) -> None:
        self.refusals.append(str(error))

    def turn_away(self, reason: str) -> None:
        self.busy.append(reason)

    def lose(self, engine_died: str | None = None) -> None:
        self.lost.append(engine_died)


class Engine:
    """Puts one output out, then raises."""

    errored = False
    model_config = SimpleNamespace(get_vocab_size=lambda: 1000)
    dead_error = RuntimeError("EngineCore died")

    def __init__(self, reason: str | None = None, failure: Exception | None = None) -> None:
        self.contexts: list[dict[str, Any]] = []
        self._reason = reason
        self._failure = failure

    async def generate(self, _: Any, __: Any, ___: str, **context: Any) -> AsyncIterator[Any]:
        self.contexts.append(context)
        part = SimpleNamespace(token_ids=[1], finish_reason=self._reason)
        yield SimpleNamespace(prompt_token_ids=[1], num_cached_tokens=0, outputs=[part])
        if self._failure is not None:
            raise self._failure

    async def encode(self, _: Any, __: Any, ___: str, **context: Any) -> AsyncIterator[Any]:
        self.contexts.append(context)
        pooled = SimpleNamespace(numel=lambda: 0 if self._reason == "abort" else 128)
        yield SimpleNamespace(
            prompt_token_ids=[1, 2], num_cached_tokens=1, outputs=SimpleNamespace(data=pooled), error=None
        )


class Gate:
    def __init__(self, failure: Exception | None = None) -> None:
        self._failure = failure

    async def pass_through(self, params: Any) -> Any:
        if self._failure is not None:
            raise self._failure
        return params


def ask(engine: Engine, gate: Any = None, *, pools: bool = False, **context: Any) -> tuple[Heard, Exception | None]:
    """What the call has heard, and what the application has to deal with."""
    from vllm import PoolingParams, SamplingParams

    heard = Heard()
    door = Door(engine, gate or Gate(), Given(EngineLoad()), LogprobsRoom(1))

    async def run() -> Exception | None:
        current_call.set(heard)  # type: ignore[arg-type]  # it is played
        what, params = (door.encode, PoolingParams()) if pools else (door.generate, SamplingParams())
        try:
            async for _ in what({"prompt_token_ids": [1]}, params, "r", **context):
                pass
        except Exception as error:  # noqa: BLE001  the application's business
            return error
        return None

    return heard, asyncio.run(run())


def test_a_request_does_not_say_where_it_runs_and_before_which_others() -> None:
    engine = Engine("stop")
    heard, error = ask(engine, priority=-5, data_parallel_rank=1, lora_request=None)
    assert (error, heard.has_output, engine.contexts) == (None, True, [{"lora_request": None}])


def test_an_end_that_nobody_asked_for_is_a_loss() -> None:
    heard, error = ask(Engine("abort"))
    assert isinstance(error, Lost)
    assert (heard.lost, heard.has_output) == ([None], False)


def test_a_prompt_that_is_pooled_passes_as_well_and_is_lost_when_nothing_comes_of_it() -> None:
    engine = Engine("stop")
    heard, error = ask(engine, pools=True, priority=-5, session_id="a")
    assert (error, engine.contexts, heard.lost) == (None, [{}], [])
    heard, error = ask(Engine("abort"), pools=True)
    assert (type(error), heard.lost) == (Lost, [None])


def test_a_refusal_by_the_gate_or_the_engine_is_told() -> None:
    for engine, gate in ((Engine(), Gate(ValueError("no"))), (Engine(failure=ValueError("no")), None)):
        heard, error = ask(engine, gate)
        assert (str(error), heard.refusals, heard.lost) == ("no", ["no"], [])


def test_a_busy_compiler_is_no_refusal() -> None:
    heard, _ = ask(Engine(), Gate(EngineBusy("later")))
    assert (heard.busy, heard.refusals) == (["later"], [])


def test_the_engines_death_is_told_wherever_the_application_finds_it() -> None:
    engine = Engine(failure=RuntimeError("EngineCore died"))
    engine.errored = True
    heard, _ = ask(engine)
    assert heard.lost == ["EngineCore died"]
    heard = Heard()
    door = Door(engine, None, Given(EngineLoad()), LogprobsRoom(1))

    async def run() -> None:
        current_call.set(heard)  # type: ignore[arg-type]  # it is played
        raise door.dead_error

    with pytest.raises(RuntimeError, match="EngineCore died"):
        asyncio.run(run())
    assert heard.lost == ["EngineCore died"]
