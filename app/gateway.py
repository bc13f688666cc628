"""The parts of the gateway, put together, and their life: start, drain, stop."""

import asyncio
import time
from collections.abc import Iterable, Mapping

import msgspec

from app.batches.reading import BodyReads
from app.batches.service import BatchService
from app.dispatch.dispatcher import Dispatcher
from app.dispatch.placement import Dispatch, placement
from app.errors import TryLater
from app.keys.ring import KeyRing
from app.keys.store import KeysFile
from app.logs import get_logger
from app.metrics import Metrics
from app.ranks.devices import Allotment
from app.ranks.fleet import Fleet
from app.ranks.rank import Rank, RankState
from app.settings.declaration import Settings
from app.traces import OFF, Traces
from engines import tasks
from engines.contract.protocol import Abort, ItemError, ItemErrorCode, Run
from phalanx import __version__

logger = get_logger("gateway")
LOADING_RETRY_S = 5.0


class RankView(msgspec.Struct):
    """A rank's figures at one scrape."""

    number: int
    state: str
    figures: dict[str, float]


class Gateway:
    """One per process. Made inside the running event loop."""

    def __init__(
        self, settings: Settings, environ: Mapping[str, str], allotment: Allotment, traces: Traces = OFF
    ) -> None:
        self.settings = settings
        self.traces = traces
        self.started_at = time.time()
        self.is_draining = False
        self.metrics = Metrics(__version__)
        self.keys = KeyRing(KeysFile(settings.api_keys_file)) if settings.api_keys_file else None
        self.dispatcher = Dispatcher(
            self._send,
            placement(Dispatch(settings.dispatch)),
            settings.fairness_quantum_tokens,
            settings.prefetch,
            lambda act: asyncio.get_running_loop().call_soon(tasks.guarded(act, "dispatch", self._fail)),
        )
        self.batches = BatchService(
            settings, self.dispatcher, self.metrics, lambda: self.fleet.has_hope, self._fail, traces
        )
        self.bodies = BodyReads()
        self.accepted_params: set[bytes] = set()  # digests of batch-wide parameters that the engine has said yes to
        self.changed = asyncio.Event()
        self.fleet = Fleet(settings, environ, allotment.device, allotment.shares, self.batches, self.changed.set)
        self._watch()

    # -- life

    def start(self) -> None:
        """Begins to start the ranks; requests may come at once."""
        if self.keys is not None:
            self.keys.start(self._fail)
        self.fleet.start()

    async def drain(self) -> None:
        """Admits nothing more, and lets what is admitted finish, up to the deadline; the rest gets its error."""
        self.is_draining = True
        self.bodies.end()
        timeout_s = self.settings.drain_timeout_s
        logger.info("draining", batches=self.batches.active, timeout_s=timeout_s)
        try:
            await asyncio.wait_for(self.batches.wait_idle(), timeout_s)
        except TimeoutError:
            logger.warning("drain_deadline", batches=self.batches.active)
        finally:  # after a second signal, too: every item gets its result
            self.batches.end_all(
                ItemError(ItemErrorCode.SHUTTING_DOWN, "the service is shutting down: send the item again")
            )

    def give_up(self) -> None:
        """The service cannot go on: what is admitted gets its error at once."""
        self.is_draining = True
        self.bodies.end()
        self.batches.end_all(ItemError(ItemErrorCode.SHUTTING_DOWN, "the service failed and ends: send the item again"))

    async def stop(self) -> None:
        """Stops the ranks. May be called twice."""
        try:
            await self.fleet.stop()
        finally:
            if self.keys is not None:
                await self.keys.stop()

    # -- what requests ask first

    def check_open(self) -> None:
        """Raises TryLater while nothing can run: no rank is ready, or the service is ending."""
        if self.is_draining:
            raise self.unavailable("the service is shutting down", "shutting_down")
        if not self.dispatcher.has_ranks:
            raise self.unavailable(self.reason, "no_rank_ready")

    def unavailable(self, reason: str, code: str) -> TryLater:
        """A 503 with the reason."""
        return TryLater(
            f"{reason}: try again in {LOADING_RETRY_S:.0f} s", status=503, code=code, retry_after_s=LOADING_RETRY_S
        )

    @property
    def reason(self) -> str:
        """Why not all ranks are ready, in words that everybody may read."""
        if self.is_draining:
            return "the service is shutting down"
        waiting = [rank for rank in self.fleet.ranks if not rank.is_ready]
        if not waiting:
            return "all ranks are ready"
        if all(rank.state is RankState.PENDING for rank in waiting):
            return "no rank is ready: the model's configuration is being read"
        parts = [f"rank {rank.number} is {rank.state}{_detail(rank)}" for rank in waiting]
        return (
            f"{'no rank is ready' if not self.dispatcher.has_ranks else 'not all ranks are ready'}: {'; '.join(parts)}"
        )

    def _fail(self, what: str, error: BaseException) -> None:
        self.fleet.fail(what, error)

    def _send(self, rank: int, message: Run | Abort) -> None:
        self.fleet.send(rank, message)

    # -- metrics

    def _watch(self) -> None:
        backlog = self.dispatcher.backlog
        self.metrics.watch(
            {
                "phalanx_backlog_items": ("Items accepted and not yet dispatched.", lambda: backlog.items),
                "phalanx_backlog_tokens": ("Tokens that these may take.", lambda: backlog.tokens),
                "phalanx_running_items": ("Items on ranks.", lambda: self.dispatcher.running_items),
                "phalanx_suspect_items": (
                    "Items on trial, after their group crashed.",
                    lambda: sum(self.dispatcher.suspects(group) for group in self.fleet.groups),
                ),
                "phalanx_asyncio_tasks": ("Tasks of the event loop.", lambda: len(asyncio.all_tasks())),
                "phalanx_active_batches": ("Batches under way.", lambda: self.batches.active),
                "phalanx_held_bytes": ("Bodies and results in memory, in bytes.", lambda: self.batches.memory.total),
            },
            {
                "phalanx_items_requeued_total": (
                    "Attempts that were lost and made again.",
                    lambda: self.dispatcher.requeued_items,
                ),
                "phalanx_items_poisoned_total": (
                    "Items that were found to crash an engine.",
                    lambda: self.dispatcher.convicted,
                ),
            },
            self._rank_views,
        )

    def _rank_views(self) -> Iterable[RankView]:
        for rank in self.fleet.ranks:
            figures: dict[str, float] = {
                "phalanx_rank_held_items": self.dispatcher.held(rank.number),
                "phalanx_rank_credit_sequences": self.dispatcher.credit(rank.number),
                "phalanx_rank_restarts": max(0, rank.incarnation - 1),
            }
            if rank.status is not None:
                status = rank.status
                figures["phalanx_rank_running_sequences"] = status.running
                figures["phalanx_rank_waiting_sequences"] = status.waiting
                figures["phalanx_rank_kv_cache_usage_ratio"] = status.kv_cache_usage
                figures["phalanx_rank_steps"] = status.steps
                if status.step_age_s is not None:
                    figures["phalanx_rank_step_age_seconds"] = status.step_age_s
            yield RankView(rank.number, str(rank.state), figures)


def _detail(rank: Rank) -> str:
    """How far it is, or why it is down; for one that starts again, both."""
    parts = [f"stage {rank.stage}"] if rank.state is RankState.STARTING else []
    if rank.error_line:
        parts.append(f"after: {rank.error_line}" if parts else rank.error_line)
    return f" ({', '.join(parts)})" if parts else ""
