"""A compiled structure is tried out before the engine gets it. The compiled grammar is played."""

import time
from collections.abc import Callable
from typing import Any

import numpy
import pytest

from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.vllm_engine.structure_options import StructureRefused
from engines.vllm_engine.structure_trial import TRIAL_STEPS, try_out


class Mask:
    """A bitmask of one row, as torch has it."""

    def __init__(self) -> None:
        self.row = numpy.zeros(4, dtype=numpy.int32)

    def __getitem__(self, _: int) -> "Mask":
        return self

    def numpy(self) -> Any:
        return self.row


class Grammar:
    """Allows some tokens, until it ends."""

    def __init__(
        self,
        allowed: list[int],
        steps: int = 1000,
        on_fill: Callable[[int], None] = lambda _: None,
        on_accept: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.allowed = allowed
        self.accepted: list[int] = []
        self.fills = 0
        self._steps = steps
        self._on_fill = on_fill
        self._on_accept = on_accept

    def allocate_token_bitmask(self, rows: int) -> Mask:
        assert rows == 1
        return Mask()

    def fill_bitmask(self, mask: Mask, _: int) -> None:
        self.fills += 1
        self._on_fill(self.fills)
        mask.row[:] = 0
        for token in self.allowed:
            mask.row.view(numpy.uint32)[token // 32] |= numpy.uint32(1 << token % 32)

    def accept_tokens(self, _: str, tokens: list[int]) -> bool:
        self.accepted += tokens
        self._on_accept(len(self.accepted))
        return True

    def is_terminated(self) -> bool:
        return len(self.accepted) >= self._steps


def tried(grammar: Grammar, judge: Callable[[list[int]], str | None] = lambda _: None) -> ItemError | None:
    try:
        try_out(grammar, grammar, judge)
    except StructureRefused as refused:
        assert refused.error.code is ItemErrorCode.INVALID_SAMPLING_PARAMS
        return refused.error
    return None


def burn(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


@pytest.mark.parametrize("allowed", [[0], [31, 32, 127], list(range(128))])
def test_only_tokens_that_it_allows_are_tried(allowed: list[int]) -> None:
    grammar = Grammar(allowed)
    assert tried(grammar) is None
    assert len(grammar.accepted) == TRIAL_STEPS
    assert set(grammar.accepted) <= set(allowed)


def test_a_grammar_that_ends_is_not_tried_beyond_its_end() -> None:
    grammar = Grammar([1], steps=3)
    assert tried(grammar) is None
    assert grammar.fills == 3


def test_one_that_lets_a_wrong_text_through_is_refused() -> None:
    error = tried(Grammar([7], steps=3), lambda tokens: f"is wrong: {tokens}")
    assert error is not None
    assert "what its compiler lets through is wrong: [7, 7]" in error.message, "the token that ends it is no text"


def test_what_has_not_ended_is_not_judged() -> None:
    assert tried(Grammar([7]), lambda _: "is wrong") is None


def test_one_that_nothing_matches_is_refused() -> None:
    error = tried(Grammar([]))
    assert error is not None
    assert "no text matches it" in error.message


@pytest.mark.parametrize("when", ["on_fill", "on_accept"])
def test_one_that_is_slow_at_every_token_is_refused(when: str) -> None:
    slow: Any = {when: lambda _: burn(0.02)}
    error = tried(Grammar([1], **slow))
    assert error is not None
    assert "for each token, which all sequences would wait for" in error.message


def test_one_that_is_slower_with_each_token_is_refused_while_it_is_fast() -> None:
    grammar = Grammar([1], on_accept=lambda accepted: burn(accepted * 5e-5))
    error = tried(grammar)
    assert error is not None
    assert "it takes longer with each token" in error.message
    assert len(grammar.accepted) < TRIAL_STEPS / 2


@pytest.mark.parametrize("step", [5, 40, 200])
def test_one_that_is_slow_once_is_accepted(step: int) -> None:
    assert tried(Grammar([1], on_fill=lambda fill: burn(0.02 if fill == step else 0))) is None
