"""Compiles a structure as the engine core will, and tries it out: what a lane's child does with it.

Compiling is not all that a structure costs. For every token of every sequence the engine core asks what may come next,
and says what came, between two steps of all sequences: a structure that takes long for that slows down everybody who
shares the rank. An ambiguous grammar takes longer with every token, so the trial is as long as a short answer; one that
becomes slow only on a way that chance does not take passes.
"""

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import msgspec

from engines.contract.protocol import ItemError, ItemErrorCode
from engines.vllm_engine import compat

PARAM = "sampling_params.structured_outputs"
TRIAL_STEPS = 256
TRIAL_CPU_S = 0.5
SLOWEST_STEP_S = 0.01  # of CPU; usual ones take a hundredth of a millisecond
MOST_SLOW = 2  # that may have filled a cache, or been the machine's fault
GROWTH = 4.0  # of the median step from the first quarter of a trial to the last, when that is slow already
SLOW_MEDIAN_S = 0.001
FEWEST_TO_COMPARE = 32  # steps


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
        steps: list[float] = []
        deadline = time.process_time() + TRIAL_CPU_S
        while len(steps) < TRIAL_STEPS and time.process_time() < deadline and not grammar.is_terminated():
            began = time.process_time()
            grammar.fill_bitmask(mask, 0)
            filled = time.process_time()
            token = _any_allowed(mask, chance)
            if token is None:
                return None if steps else _refused("no text matches it")
            chosen = time.process_time()
            grammar.accept_tokens("trial", [token])
            steps.append(time.process_time() - chosen + filled - began)
            if error := compat.grammar_error(grammar):
                return _refused(f"it cannot be followed: {error}")
            if why := _too_slow(steps):
                return _refused(f"{why}, which all sequences would wait for")
        return None


def _too_slow(steps: list[float]) -> str | None:
    """What is wrong with the CPU seconds that the steps so far took."""
    slow = sorted(step for step in steps if step > SLOWEST_STEP_S)
    if len(slow) > MOST_SLOW:
        return f"it takes {1000 * slow[0]:.0f} ms for each token"
    quarter = len(steps) // 4
    if len(steps) < FEWEST_TO_COMPARE or steps[-1] < SLOW_MEDIAN_S:
        return None
    first, last = (statistics.median(part) for part in (steps[:quarter], steps[-quarter:]))
    if last > max(SLOW_MEDIAN_S, GROWTH * first):
        return f"it takes longer with each token, {1000 * last:.1f} ms after {len(steps)} of them"
    return None


def _any_allowed(mask: Any, chance: random.Random) -> int | None:
    """One of the token ids that a bitmask of one row allows, 32 to a word."""
    words = mask[0].numpy()  # and not torch, whose threads do not survive a fork
    some = words.nonzero()[0]
    if not len(some):
        return None
    place = int(chance.choice(some))
    word = int(words[place]) & 0xFFFFFFFF
    bits = [bit for bit in range(32) if word >> bit & 1]
    return 32 * place + chance.choice(bits)


def _refused(why: str) -> StructureVerdict:
    error = ItemError(ItemErrorCode.INVALID_SAMPLING_PARAMS, f"structured_outputs: {why}; use a simpler one", PARAM)
    return StructureVerdict(error)
