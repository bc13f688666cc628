"""Judges what was generated under a structure: what the child of the lane for outputs does.

Texts are judged by text_checks.py. Tokens go through the compiled structure once more: one that it does not allow was
let through because other parameters forbade all that it does.
"""

from collections.abc import Callable
from enum import StrEnum
from functools import cached_property
from typing import Any

import msgspec

from engines.vllm_engine.bounded_cache import BoundedCache
from engines.vllm_engine.structure_options import Structure
from engines.vllm_engine.structure_work import Compiler, prepared_compiler
from engines.vllm_engine.text_checks import TextCheck, text_check


class Fault(StrEnum):
    """What is wrong with an output."""

    TEXT = "text"  # it is not what was asked for
    TOKENS = "tokens"  # the structure does not allow them


class Finding(msgspec.Struct, array_like=True):
    """An output at fault, by its place among those asked about."""

    output: int
    fault: Fault
    why: str


class OutputToJudge(msgspec.Struct, array_like=True):
    """One generated sequence."""

    text: str | None  # None when it was cut: there is nothing to judge in it
    tokens: list[int] | None  # None when the text tells enough


class Judgement(msgspec.Struct, array_like=True):
    """What is asked: the structure, msgpack-encoded as it came, and what was generated under it."""

    structure: bytes
    outputs: list[OutputToJudge]


def prepare(config: Any) -> Callable[[bytes], bytes]:  # Any: vLLM's VllmConfig
    """The work: from a Judgement to the first Finding or None, all as msgpack."""
    compiler = prepared_compiler(config)
    judges: BoundedCache[Judge] = BoundedCache()

    def work(asked: bytes) -> bytes:
        judgement = msgspec.msgpack.decode(asked, type=Judgement)
        judge = judges.get(judgement.structure)
        if judge is None:
            judge = Judge(compiler, msgspec.msgpack.decode(judgement.structure))
            judges.put(judgement.structure, judge)
        return msgspec.msgpack.encode(judge.first_finding(judgement.outputs))

    return work


class Judge:
    """Of what is generated under one structure. Most need no more than the check of texts: it is cheap to make."""

    def __init__(self, compiler: Compiler, structure: Structure) -> None:
        self._compiler = compiler
        self._structure = structure

    def first_finding(self, outputs: list[OutputToJudge]) -> Finding | None:
        """The fault of the first output that has one."""
        for number, output in enumerate(outputs):
            if output.tokens is not None and (why := self._disallowed(output.tokens)):
                return Finding(number, Fault.TOKENS, why)
            if output.text is not None and self._check is not None and (why := self._check(output.text)):
                return Finding(number, Fault.TEXT, why)
        return None

    @cached_property
    def _check(self) -> TextCheck | None:
        return text_check(self._compiler.arranged(self._structure))

    @cached_property
    def _grammar(self) -> Any:  # Any: vLLM's StructuredOutputGrammar
        return self._compiler.compiled(self._structure).grammar

    def _disallowed(self, tokens: list[int]) -> str | None:
        self._grammar.reset()
        followed = len(self._grammar.validate_tokens(tokens))
        return None if followed == len(tokens) else f"after {followed} tokens"
