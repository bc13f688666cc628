"""One of torchrun's workers: an engine core of its own, which goes along with those of the other workers.

A step of the model is a collective. So all workers go through the same rounds: they exchange what they are about to
do, the leader's orders are handed down, all follow them, and all step, as soon as one of them has work.
"""

from collections.abc import Callable
from typing import Any

from engines import logs
from engines.contract.spec import GroupKind, RankSpec
from engines.failures import report
from engines.host import torchrun
from engines.vllm_engine import compat
from engines.vllm_engine.external_launcher import orders as wire
from engines.vllm_engine.external_launcher import shared_memory_names
from engines.vllm_engine.external_launcher.digest import Digest
from engines.vllm_engine.external_launcher.orders import Head, Intent, Orders

logger = logs.get_logger(logs.RANK_LOGGER)
HEARTBEAT_S = 2.0  # between two rounds without work: well below gloo's patience of half an hour
# Ranks in lock-step wait for the one that sleeps longest: that much later it begins, after there was no work.
LOCKSTEP_HEARTBEAT_S = 0.05

TakeOrders = Callable[[float], Orders]  # waits at most so many seconds for some; a worker that follows has none
Deliver = Callable[[Any], None]  # Any: vLLM's EngineCoreOutputs


class Worker:
    """Made on the thread that steps: torch's threads, its device and their binding belong to it."""

    def __init__(self, spec: RankSpec, config: Any, *, log_stats: bool) -> None:  # Any: vLLM's VllmConfig
        from vllm.v1.engine import EngineCoreRequest
        from vllm.v1.engine.core_client import InprocClient
        from vllm.v1.executor.abstract import Executor
        from vllm.v1.serial_utils import MsgpackDecoder

        from engines.vllm_engine.external_launcher.rounds import Rounds

        if spec.device == "cpu":
            shared_memory_names.make_unique(torchrun.shared_memory_prefix(spec))
        self._with_message = spec.log_prompts
        self._client = InprocClient(config, Executor.get_class(config), log_stats)
        self._core: Any = self._client.engine_core  # Any: vLLM's EngineCore
        self._needs_company = spec.group_kind is GroupKind.LOCKSTEP and not compat.joins_without_tokens(config)
        self.supported_tasks: tuple[str, ...] = tuple(self._client.get_supported_tasks())
        self._decode = MsgpackDecoder(EngineCoreRequest).decode
        self._rounds = Rounds()
        self.pids = self._rounds.pids()
        torchrun.remove_shared_memory(spec)  # all have mapped it: it goes with the last of them, however they end
        self._heartbeat_s = LOCKSTEP_HEARTBEAT_S if spec.group_kind is GroupKind.LOCKSTEP else HEARTBEAT_S
        self._digest = Digest(_decisive(config))
        self._steps = 0
        self._intent = Intent.IDLE

    def run(self, take: TakeOrders, deliver: Deliver) -> None:
        """Until the orders say that it ends. Raises WorkersDisagree, and whatever a step raises."""
        while self._round(take, deliver):
            pass

    def close(self) -> None:
        """Shuts the core down. May be called once, after `run`."""
        import torch.distributed as dist

        self._client.shutdown()
        if dist.is_initialized():
            dist.destroy_process_group()

    def _round(self, take: TakeOrders, deliver: Deliver) -> bool:
        own = take(0.0 if self._intent else self._heartbeat_s)
        frame = wire.encode(own)
        heads = self._rounds.exchange(Head(len(frame), self._steps, self._digest.value, self._intent_with(own)))
        wire.check_agreement(heads, self._rounds.workers)
        self._intent = wire.together(heads)
        if self._intent & Intent.END:
            return False
        self._follow(wire.decode(self._rounds.hand_down(frame, heads)), deliver)
        if self._intent & Intent.WORK:
            self._step(deliver)
        return True

    def _intent_with(self, own: Orders) -> Intent:
        if own.is_last:
            return Intent.END
        return Intent.WORK if own or self._has_requests() else Intent.IDLE

    def _has_requests(self) -> bool:
        """Also when they have ended and the model runner has not heard of it."""
        return bool(self._core.scheduler.has_requests() or self._core.batch_queue)

    def _follow(self, orders: Orders, deliver: Deliver) -> None:
        refused = [request for frame in orders.adds if (request := self._refused(frame)) is not None]
        if refused:
            outputs = _failed(refused)
            self._digest.add(outputs.outputs)
            deliver(outputs)
        if orders.aborts:
            self._client.abort_requests(orders.aborts)

    def _refused(self, frame: bytes) -> str | None:
        """Adds a request; its id if that fails, which is its own end and nobody else's, as in vLLM's own loop."""
        request = self._decode(frame)
        try:
            self._client.add_request(request)
        except Exception as error:  # noqa: BLE001  the door: whatever vLLM stumbles over
            how = report(error, with_message=self._with_message)
            logger.error("request_refused", request=request.request_id, exception=how)  # noqa: TRY400  without its message
            return str(request.request_id)
        return None

    def _step(self, deliver: Deliver) -> None:
        """One forward pass, of nothing where others have work and this rank has none: theirs needs everybody."""
        self._steps += 1
        if not self._has_requests():
            self._core.execute_dummy_batch()
            return
        outputs, was_executed = compat.step(self._core)
        if not was_executed and self._needs_company:
            self._core.execute_dummy_batch()
        self._digest.add(outputs.outputs)
        deliver(outputs)


def _decisive(config: Any) -> tuple[int | None, ...]:  # Any: vLLM's VllmConfig
    """What schedulers decide by, and workers might find out differently: how many sequences and blocks there are."""
    scheduler, cache = config.scheduler_config, config.cache_config
    return (
        scheduler.max_num_seqs,
        scheduler.max_num_batched_tokens,
        config.model_config.max_model_len,
        cache.num_gpu_blocks,
    )


def _failed(requests: list[str]) -> Any:  # Any: vLLM's EngineCoreOutputs
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason

    return EngineCoreOutputs(
        outputs=[EngineCoreOutput(name, [], finish_reason=FinishReason.ERROR) for name in requests]
    )
