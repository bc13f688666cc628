"""A rank whose tensor-parallel workers torchrun has started: vLLM's engine as ever, on an engine core that leads."""

from collections.abc import Callable
from typing import Any

import msgspec

from engines.contract.protocol import RankFacts
from engines.contract.spec import RankSpec
from engines.rank.engine import Emit, ReportStage
from engines.vllm_engine import compat
from engines.vllm_engine.engine import VllmEngine
from engines.vllm_engine.external_launcher.launch import Launch
from engines.vllm_engine.external_launcher.leader import LeadingCore


class LaunchedEngine(VllmEngine):
    """Differs from its parent in where the engine core is, and in which processes have to live as long as it."""

    def __init__(self, spec: RankSpec, emit: Emit, died: Callable[[str], None], launch: Launch) -> None:
        super().__init__(spec, emit, died)
        self._launch = launch
        self._followers: dict[str, int] = {}

    async def start(self, report: ReportStage) -> RankFacts:
        facts = await super().start(report)
        return msgspec.structs.replace(facts, processes=facts.processes | self._followers)

    def _build(self, config: Any) -> Any:  # Any: vLLM's VllmConfig and AsyncLLM
        core = LeadingCore(self.spec, self._launch, config, self.died)
        self._followers = {
            self.spec.worker_title(number): pid for number, pid in enumerate(core.pids) if number != self._launch.number
        }
        with compat.engine_core_client(core):
            return super()._build(config)
