"""Whether a structure (a JSON schema, a regex, a grammar) can be had at a bounded cost.

Compiling one may take minutes and gigabytes, or crash the library that does it. vLLM compiles partly on the rank's
loop and partly in the engine core, where all of that would be everybody's. So a structure is compiled in a lane
(confinement.py) first, once, with limits; the engine gets only what came through. Most compile in milliseconds: those
that do not go on in a second lane, so that the others need not wait for them. Where too many wait, more are refused:
an item that waits holds a place on the rank that another could run in.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from engines import tasks
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.vllm_engine import structure_work
from engines.vllm_engine.bounded_cache import BoundedCache
from engines.vllm_engine.confinement import LANES_TITLE, WALL_PER_CPU, Answer, Lane, LaneDied, Outcome
from engines.vllm_engine.structure_options import PARAM
from engines.vllm_engine.structure_work import StructureVerdict

QUICK_CPU_S = 0.2
LONGEST_WAIT_S = 5.0  # behind others in the quick lane
MOST_SLOW = 4  # at once in the slow lane
MEMORY_BYTES = 1024 * 1024 * 1024  # beyond what the rank had imported
NO_VERDICT = (Outcome.FAILED, Outcome.STARVED)  # they say nothing of the structure: who asks again is answered anew
BUSY = StructureVerdict(
    ItemError(ItemErrorCode.ENGINE_ERROR, "too many structures wait to be compiled: send the item again later", PARAM)
)


class StructureChecker:
    """Asks the lanes, and remembers what they said."""

    def __init__(self, quick: Lane, slow: Lane, cpu_s: float, died: Callable[[str], None]) -> None:
        self._quick = quick
        self._slow = slow
        self._cpu_s = cpu_s
        self._died = died
        self._verdicts: BoundedCache[asyncio.Task[StructureVerdict]] = BoundedCache()
        self._slow_ones = 0  # that wait for the slow lane, or are in it

    def known(self, structure: bytes) -> StructureVerdict | None:
        """What was said of a structure, msgpack-encoded as it came, if it has been asked about."""
        verdict = self._verdicts.get(structure)
        return verdict.result() if verdict is not None and verdict.done() else None

    async def check(self, structure: bytes) -> StructureVerdict:
        """The verdict. Equal structures are compiled once, whoever goes away meanwhile."""
        verdict = self._verdicts.get(structure)
        if verdict is None:
            verdict = tasks.awaited(self._check(structure), "check a structure")
            self._verdicts.put(structure, verdict)
        return await asyncio.shield(verdict)

    def close(self) -> None:
        """Ends the lanes."""
        self._quick.close()
        self._slow.close()

    async def _check(self, structure: bytes) -> StructureVerdict:
        answer: Answer | None = None
        try:
            answer = await self._ask_quick(structure)
            if answer is not None and answer.outcome is not Outcome.DONE:
                answer = await self._ask_slow(structure)
        except LaneDied as error:
            self._died(str(error))
            return StructureVerdict(ItemError(ItemErrorCode.ENGINE_ERROR, str(error)))
        finally:
            if answer is None or answer.outcome in NO_VERDICT:
                self._verdicts.drop(structure)
        return BUSY if answer is None else self._verdict(answer)

    async def _ask_quick(self, structure: bytes) -> Answer | None:
        """None when it was too long until its turn."""
        began = time.monotonic()
        async with self._quick.turn:
            if time.monotonic() - began > LONGEST_WAIT_S:
                return None
            return await self._quick.ask(structure, min(QUICK_CPU_S, self._cpu_s))

    async def _ask_slow(self, structure: bytes) -> Answer | None:
        """None when too many wait already."""
        if self._slow_ones == MOST_SLOW:
            return None
        self._slow_ones += 1
        try:
            async with self._slow.turn:
                return await self._slow.ask(structure, self._cpu_s)
        finally:
            self._slow_ones -= 1

    def _verdict(self, answer: Answer) -> StructureVerdict:
        code = ItemErrorCode.INVALID_SAMPLING_PARAMS
        match answer.outcome:
            case Outcome.DONE:
                return msgspec.msgpack.decode(answer.data, type=StructureVerdict)
            case Outcome.FAILED:
                return StructureVerdict(ItemError(ItemErrorCode.ENGINE_ERROR, answer.data.decode(), PARAM))
            case Outcome.STARVED:
                waited_s = WALL_PER_CPU * self._cpu_s
                why = f"in {waited_s:g} s its compiler got no {self._cpu_s:g} s of CPU time: send the item again later"
                return StructureVerdict(ItemError(ItemErrorCode.ENGINE_ERROR, f"structured_outputs: {why}", PARAM))
            case Outcome.TIME:
                why = f"it takes more than {self._cpu_s:g} s of CPU time to compile (--structure-cpu-s)"
            case Outcome.MEMORY | Outcome.CRASHED:
                why = f"it cannot be compiled within {MEMORY_BYTES // 2**20} MiB of memory, or breaks its compiler"
        return StructureVerdict(ItemError(code, f"structured_outputs: {why}; use a simpler one", PARAM))


def start_checker(rank: int, config: Any, cpu_s: float, died: Callable[[str], None]) -> StructureChecker:
    """A checker with lanes of its own: forked here, before the rank has threads of an engine. Any: vLLM's VllmConfig"""

    def prepare() -> Callable[[bytes], bytes]:
        return structure_work.prepare(config)

    quick, slow = (Lane(f"{LANES_TITLE} {rank} {name}", prepare, MEMORY_BYTES) for name in ("quick", "slow"))
    return StructureChecker(quick, slow, cpu_s, died)
