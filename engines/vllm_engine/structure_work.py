"""Compiles a structure as the engine core will, and tries it out: what a lane's child does with it.

Compiling is not all that a structure costs. For every token of every sequence the engine core asks what may come next,
and says what came, between two steps of all sequences: a structure that takes long for that slows down everybody who
shares the rank. An ambiguous grammar takes longer with every token, so the trial is as long as a short answer; one that
becomes slow only on a way that chance does not take passes. Nor may the trial's text be one that the structure forbids.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from engines.contract.item_errors import ItemError
from engines.vllm_engine import compat
from engines.vllm_engine.schema_keywords import culprit, unheld
from engines.vllm_engine.structure_options import Structure, StructureRefused, arranged, schema_of
from engines.vllm_engine.structure_trial import try_out
from engines.vllm_engine.text_checks import TextCheck, text_check

CULPRIT_CPU_S = 0.1  # for finding out which keyword is refused
SPECIAL_IN_REGEX = re.compile(r"[\\.+*?()|\[\]{}^$#&\-~]")
KINDS = ("json", "json_object", "regex", "choice", "grammar", "structural_tag")


class StructureVerdict(msgspec.Struct, array_like=True):
    """Why a structure is refused, or else what vLLM has made of it, by the names of its StructuredOutputsParams."""

    error: ItemError | None = None
    fields: dict[str, Any] = {}  # Any: vLLM's own


@dataclass(frozen=True)
class Compiled:
    """A structure as the engine core has it, and what its texts are judged by."""

    fields: dict[str, Any]  # Any: vLLM's own
    backend: Any  # Any: vLLM's StructuredOutputBackend
    grammar: Any  # Any: vLLM's StructuredOutputGrammar
    check: TextCheck | None


def prepare(config: Any) -> Callable[[bytes], bytes]:  # Any: vLLM's VllmConfig
    """The work: from a structure to its verdict, both as msgpack."""
    compiler = prepared_compiler(config)

    def work(structure: bytes) -> bytes:
        return msgspec.msgpack.encode(compiler.verdict(msgspec.msgpack.decode(structure)))

    return work


def prepared_compiler(config: Any) -> "Compiler":  # Any: as above
    """A compiler that has what every structure needs: it is made here, once, and not within a limit."""
    from vllm.tokenizers import cached_tokenizer_from_config

    compiler = Compiler(config, cached_tokenizer_from_config(model_config=config.model_config))
    compiler.verdict({"regex": "a"})
    return compiler


class Compiler:
    """Compiles structures with the backend that the engine core uses."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._backends: dict[str, Any] = {}

    def verdict(self, structure: Structure) -> StructureVerdict:
        """What vLLM says of it, what it takes to compile, and whether it can be used."""
        try:
            compiled = self.compiled(structure)
            try_out(compiled.backend, compiled.grammar, _judge(compiled))
        except StructureRefused as refused:
            return StructureVerdict(refused.error)
        return StructureVerdict(fields=compiled.fields)

    def arranged(self, structure: Structure) -> Structure:
        """The structure with its options worked into its schema. Raises StructureRefused."""
        return arranged(structure, self._config.structured_outputs_config)

    def compiled(self, structure: Structure) -> Compiled:
        """Raises StructureRefused, which names what cannot be held."""
        kinds = [name for name in KINDS if name in structure]
        if len(kinds) != 1:
            raise StructureRefused(f"exactly one of {', '.join(KINDS)} is needed, not {len(kinds)}")
        structure = self.arranged(structure)
        try:
            wanted, grammar = self._compile(structure)
            check = text_check(structure)
        except MemoryError:
            raise
        except RecursionError as error:
            raise StructureRefused("it is nested too deeply; use a simpler one") from error
        except Exception as error:
            if not compat.is_refusal_of_structure(error):
                raise
            raise self._refusal(structure, error) from error
        backend = wanted._backend
        if (schema := schema_of(structure)) and (found := unheld(schema, backend)):
            raise StructureRefused(f"{backend} does not hold {found}; leave it out", "json")
        return Compiled(vars(wanted), self._backend(backend), grammar, check)

    def _compile(self, structure: Structure) -> tuple[Any, Any]:
        """vLLM's StructuredOutputsParams, verified, and its grammar. Raises whatever vLLM and the backend raise."""
        from vllm.sampling_params import SamplingParams, StructuredOutputsParams
        from vllm.v1.structured_output.request import get_structured_output_key

        config = self._config
        is_for_guidance = config.structured_outputs_config.backend == "guidance"
        wanted = StructuredOutputsParams(**(_without_choices(structure) if is_for_guidance else structure))
        SamplingParams(structured_outputs=wanted).verify(
            config.model_config, config.speculative_config, config.structured_outputs_config, self._tokenizer
        )
        grammar = self._backend(wanted._backend).compile_grammar(*get_structured_output_key(wanted))
        if error := compat.grammar_error(grammar):
            raise ValueError(error)
        return wanted, grammar

    def _refusal(self, structure: Structure, error: Exception) -> StructureRefused:
        why = " ".join(compat.shortened(error, with_type=False).split())
        schema = schema_of(structure)
        if schema is None:
            return StructureRefused(f"{why}; use another one", next(name for name in KINDS if name in structure))
        deadline = time.process_time() + CULPRIT_CPU_S

        def accepts(part: Structure) -> bool:
            if time.process_time() > deadline:
                return True  # what is known by then has to do
            try:
                self._compile({"json": part})
                text_check({"json": part})
            except Exception:  # noqa: BLE001  the door; as above
                return False
            return True

        return StructureRefused(f"{culprit(schema, accepts)} cannot be held: {why}; leave it out", "json")

    def _backend(self, name: str) -> Any:
        if name not in self._backends:
            vocab_size = self._config.model_config.get_vocab_size()
            self._backends[name] = compat.structure_backend(name)(
                self._config, tokenizer=self._tokenizer, vocab_size=vocab_size
            )
        return self._backends[name]


def _judge(compiled: Compiled) -> Callable[[list[int]], str | None]:
    """Tells what is wrong with a whole text of these tokens. Formats are not the backend's alone to hold."""

    def judge(tokens: list[int]) -> str | None:
        text = compat.text_as_compiled(compiled.backend, tokens)
        why = None if compiled.check is None or text is None else compiled.check(text)
        return None if why is None or why.endswith("format") else why

    return judge


def _without_choices(structure: Structure) -> Structure:
    """Choices as a regex: guidance's grammar of choices ends at 2,000 of them, and its lexer hardly notices 10,000."""
    choices = structure.get("choice")
    if choices is None or any("\0" in choice for choice in choices):  # vLLM accepts no NUL in a regex
        return structure
    return {"regex": "|".join(SPECIAL_IN_REGEX.sub(r"\\\g<0>", choice) for choice in choices)}
