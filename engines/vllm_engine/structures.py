"""Whether a structure (a JSON schema, a regex, a grammar) can be had at a bounded cost.

Compiling one may take minutes and gigabytes, or crash the library that does it. vLLM compiles partly on the rank's
loop and partly in the engine core, where all of that would be everybody's. So a structure is compiled in a lane
(confinement.py) first, once, with limits; the engine gets only what came through. Most compile in milliseconds: those
that do not go on in a second lane, so that the others need not wait for them.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from engines.protocol import ItemError, ItemErrorCode
from engines.vllm_engine import structure_work
from engines.vllm_engine.bounded_cache import BoundedCache
from engines.vllm_engine.confinement import Answer, Lane, LaneDied, Outcome
from engines.vllm_engine.structure_work import PARAM, StructureVerdict

QUICK_CPU_S = 0.25
MEMORY_BYTES = 1024 * 1024 * 1024  # beyond what the rank had imported
TITLE = "phalanx-structures"  # of the lanes' processes


class StructureChecker:
    """Asks the lanes, and remembers what they said. Make it before the rank has threads of an engine."""

    def __init__(self, rank: int, config: Any, cpu_s: float, died: Callable[[str], None]) -> None:  # Any: VllmConfig
        self._cpu_s = cpu_s
        self._died = died
        self._verdicts: BoundedCache[asyncio.Task[StructureVerdict]] = BoundedCache()

        def prepare() -> Callable[[bytes], bytes]:
            return structure_work.prepare(config)

        self._quick = Lane(f"{TITLE} {rank} quick", prepare, MEMORY_BYTES)
        self._slow = Lane(f"{TITLE} {rank} slow", prepare, MEMORY_BYTES)

    def known(self, structure: bytes) -> StructureVerdict | None:
        """What was said of a structure, msgpack-encoded as it came, if it has been asked about."""
        verdict = self._verdicts.get(structure)
        return verdict.result() if verdict is not None and verdict.done() else None

    async def check(self, structure: bytes) -> StructureVerdict:
        """The verdict. Equal structures are compiled once, whoever goes away meanwhile."""
        verdict = self._verdicts.get(structure)
        if verdict is None:
            verdict = asyncio.create_task(self._check(structure), name="check a structure")
            self._verdicts.put(structure, verdict)
        return await asyncio.shield(verdict)

    def close(self) -> None:
        """Ends the lanes."""
        self._quick.close()
        self._slow.close()

    async def _check(self, structure: bytes) -> StructureVerdict:
        try:
            answer = await self._quick.ask(structure, min(QUICK_CPU_S, self._cpu_s))
            if answer.outcome is not Outcome.DONE:
                answer = await self._slow.ask(structure, self._cpu_s)
        except LaneDied as error:
            self._died(str(error))
            return StructureVerdict(ItemError(ItemErrorCode.ENGINE_ERROR, str(error)))
        return self._verdict(answer)

    def _verdict(self, answer: Answer) -> StructureVerdict:
        code = ItemErrorCode.INVALID_SAMPLING_PARAMS
        match answer.outcome:
            case Outcome.DONE:
                return msgspec.msgpack.decode(answer.data, type=StructureVerdict)
            case Outcome.FAILED:
                return StructureVerdict(ItemError(ItemErrorCode.ENGINE_ERROR, answer.data.decode(), PARAM))
            case Outcome.TIME:
                why = f"it takes more than {self._cpu_s:g} s of CPU time to compile (--structure-cpu-s)"
            case Outcome.MEMORY | Outcome.CRASHED:
                why = f"it cannot be compiled within {MEMORY_BYTES // 2**20} MiB of memory, or breaks its compiler"
        return StructureVerdict(ItemError(code, f"structured_outputs: {why}; use a simpler one", PARAM))
