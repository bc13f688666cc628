"""Follows a compiled structure at random for the length of a short answer: what steps cost, and what comes out."""

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from engines.vllm_engine import compat
from engines.vllm_engine.structure_options import StructureRefused

TRIAL_STEPS = 256
TRIAL_CPU_S = 0.5
SLOWEST_STEP_S = 0.01  # of CPU; usual ones take a hundredth of a millisecond
MOST_SLOW = 2  # that may have filled a cache, or been the machine's fault
GROWTH = 4.0  # of the median step from the first quarter of a trial to the last, when that is slow already
SLOW_MEDIAN_S = 0.001
FEWEST_TO_COMPARE = 32  # steps


def try_out(backend: Any, grammar: Any, judge: Callable[[list[int]], str | None]) -> None:  # Any: vLLM's own classes
    """Raises StructureRefused if steps take too long, or if what ends is not what was asked for, as `judge` says."""
    mask = backend.allocate_token_bitmask(1)
    chance = random.Random(0)  # noqa: S311  the same tokens each time
    steps: list[float] = []
    tokens: list[int] = []
    deadline = time.process_time() + TRIAL_CPU_S
    while len(steps) < TRIAL_STEPS and time.process_time() < deadline:
        began = time.process_time()
        grammar.fill_bitmask(mask, 0)
        filled = time.process_time()
        token = _any_allowed(mask, chance)
        if token is None:
            if not steps:
                raise StructureRefused("no text matches it; use another one")
            return
        chosen = time.process_time()
        grammar.accept_tokens("trial", [token])
        steps.append(time.process_time() - chosen + filled - began)
        if error := compat.grammar_error(grammar):
            raise StructureRefused(f"it cannot be followed: {error}; use a simpler one")
        if why := _too_slow(steps):
            raise StructureRefused(f"{why}, which all sequences would wait for; use a simpler one")
        if grammar.is_terminated():
            if why := judge(tokens):
                raise StructureRefused(f"it is not held: what its compiler lets through {why}; use a simpler one")
            return
        tokens.append(token)


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
