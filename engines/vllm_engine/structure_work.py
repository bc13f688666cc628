"""Compiles a structure as the engine core will, and tries it out: what a lane's child does with it.

Compiling is not all that a structure costs. For every token of every sequence the engine core asks what may come next,
between two steps of all sequences: a structure that takes long for that slows down everybody who shares the rank.
"""

import random
import time
from collections.abc import Callable
from typing import Any

import msgspec

from engines.protocol import ItemError, ItemErrorCode
from engines.vllm_engine import compat

PARAM = "sampling_params.structured_outputs"
TRIAL_STEPS = 24
TRIAL_CPU_S = 0.5
SLOWEST_STEP_S = 0.01  # of CPU; usual ones take a tenth of a millisecond
REPEATS = 3  # of a step that was slow: the first time it may have filled a cache


class StructureVerdict(msgspec.Struct, array_like=True):
    """Why a structure is refused, or else what vLLM has made of it, by the names of its StructuredOutputsParams."""

    error: ItemError | None = None
    fields: dict[str, Any] = {}  # Any: vLLM's own


def prepare(config: Any) -> Callable[[bytes], bytes]:  # Any: vLLM's VllmConfig
    """The work: from a structure to its verdict, both as msgpack."""
    from vllm.tokenizers import cached_tokenizer_from_config

    compiler = _Compiler(config, cached_tokenizer_from_config(model_config=config.model_config))
    compiler.verdict({"regex": "a"})  # what every structure needs is made here, once, and not within a limit

    def work(structure: bytes) -> bytes:
        return msgspec.msgpack.encode(compiler.verdict(msgspec.msgpack.decode(structure)))

    return work


class _Compiler:
    def __init__(self, config: Any, tokenizer: Any) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._backends: dict[str, Any] = {}

    def verdict(self, structure: dict[str, Any]) -> StructureVerdict:
        """What vLLM says of it, what it takes to compile, and whether it can be used."""
        from vllm.sampling_params import SamplingParams, StructuredOutputsParams
        from vllm.v1.structured_output.request import get_structured_output_key

        try:
            wanted = StructuredOutputsParams(**structure)
            self._verify(SamplingParams(structured_outputs=wanted))
        except MemoryError:
            raise
        except RecursionError:
            return _refused("it is nested too deeply")
        except Exception as error:  # noqa: BLE001  the door: whatever vLLM raises here is its answer to this structure
            return StructureVerdict(compat.sampling_error(error, PARAM))
        try:
            backend = self._backend(wanted._backend)
            grammar = backend.compile_grammar(*get_structured_output_key(wanted))
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  the same; compilers raise what they like
            return _refused(f"it cannot be compiled: {compat.shortened(error)}")
        return self._tried(backend, grammar) or StructureVerdict(fields=vars(wanted))

    def _verify(self, params: Any) -> None:
        config = self._config
        params.verify(config.model_config, config.speculative_config, config.structured_outputs_config, self._tokenizer)

    def _backend(self, name: str) -> Any:
        if name not in self._backends:
            vocab_size = self._config.model_config.get_vocab_size()
            self._backends[name] = compat.structure_backend(name)(
                self._config, tokenizer=self._tokenizer, vocab_size=vocab_size
            )
        return self._backends[name]

    def _tried(self, backend: Any, grammar: Any) -> StructureVerdict | None:
        """Generates at random, and looks how long each step takes. None when all is well."""
        mask = backend.allocate_token_bitmask(1)
        chance = random.Random(0)  # noqa: S311  the same tokens each time
        deadline = time.process_time() + TRIAL_CPU_S
        for step in range(TRIAL_STEPS):
            if grammar.is_terminated() or time.process_time() > deadline:
                break
            took_s = _seconds(grammar, mask)
            if took_s > SLOWEST_STEP_S:
                took_s = min(_seconds(grammar, mask) for _ in range(REPEATS))
            if took_s > SLOWEST_STEP_S:
                return _refused(f"it takes {1000 * took_s:.0f} ms for each token, which all sequences would wait for")
            allowed = _set_bits(mask)
            if not allowed:
                return _refused("no text matches it") if step == 0 else None
            grammar.accept_tokens("trial", [chance.choice(allowed)])
            if error := compat.grammar_error(grammar):
                return _refused(f"it cannot be followed: {error}")
        return None


def _seconds(grammar: Any, mask: Any) -> float:
    """What it takes to say which tokens may come next."""
    began = time.process_time()
    grammar.fill_bitmask(mask, 0)
    return time.process_time() - began


def _set_bits(mask: Any) -> list[int]:
    """The token ids that a bitmask of one row allows."""
    import numpy  # and not torch, whose threads do not survive a fork

    bits = numpy.unpackbits(mask[0].numpy().view(numpy.uint8), bitorder="little")
    found: list[int] = bits.nonzero()[0].tolist()
    return found


def _refused(why: str) -> StructureVerdict:
    error = ItemError(ItemErrorCode.INVALID_SAMPLING_PARAMS, f"structured_outputs: {why}; use a simpler one", PARAM)
    return StructureVerdict(error)
