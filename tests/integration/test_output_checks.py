"""Outputs are judged in a real lane. The compiled structure is played, and so is what takes long."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.sampling import SamplingFields
from engines.vllm_engine import confinement
from engines.vllm_engine.confinement import Lane
from engines.vllm_engine.output_checks import OutputChecker, StructureUse
from engines.vllm_engine.output_work import Judge, Judgement

EOS, OTHER_EOS = 1, 2
CPU_S = 0.3
BOOLEAN = {"json": {"type": "boolean"}}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only CPU time counts here, whoever else needs the cores. Lanes are forked, and inherit it."""
    monkeypatch.setattr(confinement, "WALL_PER_CPU", 60)


class Grammar:
    """Allows 10, 11 and 12, in this order, and then the end."""

    def reset(self) -> None:
        pass

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        allowed = [10, 11, 12, EOS]
        return [token for place, token in enumerate(tokens) if tokens[: place + 1] == allowed[: place + 1]]


def prepare() -> Callable[[bytes], bytes]:
    """A text that begins with "slow" takes more than there is."""
    compiler: Any = SimpleNamespace(
        arranged=lambda structure: structure, compiled=lambda _: SimpleNamespace(grammar=Grammar())
    )

    def work(asked: bytes) -> bytes:
        judgement = msgspec.msgpack.decode(asked, type=Judgement)
        while any((output.text or "").startswith("slow") for output in judgement.outputs):
            pass
        judge = Judge(compiler, msgspec.msgpack.decode(judgement.structure))
        return msgspec.msgpack.encode(judge.first_finding(judgement.outputs))

    return work


def output(
    text: str,
    finish_reason: str = "stop",
    stop_reason: int | str | None = None,
    tokens: tuple[int, ...] = (10, 11, 12, EOS),
) -> Any:
    return SimpleNamespace(text=text, finish_reason=finish_reason, stop_reason=stop_reason, token_ids=tokens)


def use(structure: dict[str, Any] | None = None, **params: Any) -> StructureUse:
    fields = msgspec.convert({"structured_outputs": structure or BOOLEAN, **params}, SamplingFields)
    found = StructureUse.of(fields)
    assert found is not None
    return found


def with_checker(scenario: Callable[[OutputChecker], Awaitable[None]], has_reasoning: bool = False) -> None:
    async def run() -> None:
        lane = Lane("phalanx-test-lane outputs", prepare, 200_000_000)
        checker = OutputChecker(lane, CPU_S, EOS, lambda reason: None, has_reasoning)
        try:
            await asyncio.wait_for(scenario(checker), 100)
        finally:
            checker.close()
            await asyncio.to_thread(os.waitpid, lane.pid, 0)

    asyncio.run(run())


def check(structure_use: StructureUse, *outputs: Any) -> ItemError | None:
    found: list[ItemError | None] = []

    async def scenario(checker: OutputChecker) -> None:
        found.append(await checker.error(structure_use, list(outputs)))

    with_checker(scenario)
    return found[0]


def test_texts_that_are_what_was_asked_for_pass() -> None:
    assert check(use(), output("true"), output("false", stop_reason=OTHER_EOS)) is None


def test_one_that_is_not_is_the_items_error_and_the_message_does_not_quote_it() -> None:
    error = check(use(), output("true"), output('"secret"'))
    assert error is not None
    assert (error.code, error.code.retryable) == (ItemErrorCode.INVALID_STRUCTURED_OUTPUT, True)
    assert error.message == "the text of outputs[1] does not satisfy type"
    assert error.param == "sampling_params.structured_outputs"


def test_a_text_that_was_cut_is_as_whole_as_it_was_asked_to_be() -> None:
    cut = [
        output("tr", "length", tokens=(10,)),
        output("tru", stop_reason="e", tokens=(10, 11)),
        output("tr", stop_reason=11, tokens=(10, 11)),
        output("tr", "repetition", tokens=(10,)),
    ]
    assert check(use(stop=["e"]), *cut[:2]) is None
    assert check(use(stop_token_ids=[11]), *cut[2:]) is None


def test_a_text_that_another_end_of_the_models_ended_is_whole() -> None:
    """It has several ends as a rule, and stop_token_ids of the client's are others."""
    error = check(use(stop_token_ids=[99]), output("tr", stop_reason=OTHER_EOS, tokens=(10, 11, 12, OTHER_EOS)))
    assert error is not None and error.code is ItemErrorCode.INVALID_STRUCTURED_OUTPUT


@pytest.mark.parametrize(
    ("params", "tokens", "finish_reason"),
    [
        ({"allowed_token_ids": [600]}, (600,), "error"),
        ({"bad_words": ["x"]}, (10, 0), "error"),
        ({"allowed_token_ids": [10, 11, 12]}, (10, 11, 12, 10, 10), "length"),
        ({"ignore_eos": True}, (10, 11, 12, EOS, 10), "length"),
        ({"min_tokens": 4}, (10, 11, 12, EOS), "stop"),
    ],
)
def test_parameters_that_leave_no_token_are_named_and_not_to_be_sent_again(
    params: dict[str, Any], tokens: tuple[int, ...], finish_reason: str
) -> None:
    error = check(use(**params), output("true", finish_reason, tokens=tokens))
    assert error is not None
    assert (error.code, error.code.retryable) == (ItemErrorCode.INVALID_SAMPLING_PARAMS, False)
    assert f"together with {next(iter(params))} it allows no token" in error.message


def test_parameters_that_leave_enough_are_no_fault() -> None:
    whole = output("true")
    assert check(use(allowed_token_ids=[10, 11, 12, EOS], min_tokens=3, bad_words=["x"]), whole) is None
    assert check(use(allowed_token_ids=[10, 11]), output("tr", "length", tokens=(10, 11))) is None


def test_an_end_by_error_that_the_structure_has_nothing_to_do_with_is_not_judged() -> None:
    assert check(use(), output("tr", "error", tokens=(10, 11))) is None


@pytest.mark.parametrize("structure", [{"grammar": "a grammar"}, {"structural_tag": "{}"}])
def test_what_only_the_engine_can_read_is_judged_by_its_tokens(structure: dict[str, Any]) -> None:
    assert check(use(structure), output("anything")) is None
    error = check(use(structure), output("anything", tokens=(10, 11, EOS)))
    assert error is not None
    assert error.code is ItemErrorCode.INVALID_STRUCTURED_OUTPUT
    assert error.message == "outputs[0] leaves the structure after 2 tokens"


def test_texts_that_begin_with_reasoning_are_not_judged() -> None:
    async def scenario(checker: OutputChecker) -> None:
        assert await checker.error(use(), [output("First, true is a value. true")]) is None

    with_checker(scenario, has_reasoning=True)


def test_what_takes_too_much_is_refused_and_not_tried_again() -> None:
    async def scenario(checker: OutputChecker) -> None:
        impatient = asyncio.create_task(checker.error(use(), [output("slow")]))
        await asyncio.sleep(0)
        impatient.cancel()
        error = await checker.error(use(), [output("slow")])
        assert error is not None and error.code is ItemErrorCode.INVALID_SAMPLING_PARAMS
        began = time.monotonic()
        assert await checker.error(use(), [output("slow")]) == error
        assert time.monotonic() - began < CPU_S
        assert await checker.error(use({"choice": ["a"]}), [output("a")]) is None, "others are judged as ever"

    with_checker(scenario)
