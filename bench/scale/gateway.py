"""The gateway of the simulation: the real dispatcher and the real admission, called as the event loop calls them.

A pass of the loop takes all that has come, then sends what follows from it. What these calls take of the CPU is
measured. By the timeline a pass takes no time, or `item_s` for each result: then the gateway is one server, which the
ranks wait for when it is busy.
"""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from app.batches.admission import AdmissionGate
from app.batches.detached.starting import window_of
from app.batches.feeding import items_to_read
from app.batches.rate import RateMeter
from app.batches.stats import StatsKeeper
from app.dispatch.dispatcher import Dispatcher
from app.dispatch.item import EVERYBODY, Item, Owner
from app.dispatch.placement import Dispatch, placement
from app.errors import TryLater
from app.ranks.events import Loss, LossKind
from app.settings.declaration import Settings
from bench.scale.engine import SimulatedGroup, Speed
from bench.scale.timeline import Timeline
from bench.scale.work import Batch, Lengths
from engines.contract.protocol import Abort, Result, Run

WIRE_S = 0.0002  # one way between gateway and rank
READ_S, READ_ITEM_S = 0.01, 15e-6  # of a window, from the journal until it can run


class SimulatedGateway:
    """With all its ranks, in groups of so many. Ranks are numbered from `first_rank`."""

    def __init__(
        self,
        timeline: Timeline,
        ranks: int,
        *,
        group_size: int = 1,
        dispatch: Dispatch = Dispatch.ROUND_ROBIN,
        speed: Speed | None = None,
        item_s: float = 0.0,
        settings: Settings | None = None,
    ) -> None:
        settings = settings or Settings()
        self.timeline = timeline
        self.speed = speed or Speed()
        self.dispatcher = Dispatcher(
            self._send,
            placement(dispatch),
            settings.fairness_quantum_tokens,
            settings.prefetch,
            timeline.after,
            self._soon,
            self,
            settings.online_share,
            timeline,
            settings.waves,
        )
        self.rate = RateMeter(timeline)
        self.admission = AdmissionGate(settings, self.dispatcher.backlog, self.rate)
        self.stats = StatsKeeper(timeline)
        self.batches: list[Batch] = []
        self.cpu_s = 0.0  # of the calls into the real code
        self.results = self.passes = self.refusals = 0
        self.tokens_by_second: Counter[int] = Counter()  # what was answered, prompts counted in
        self._item_s = item_s
        self._fed: list[Batch] = []  # those that come in windows, and have more
        self._reading: set[Batch] = set()
        self._inbox: list[Callable[[], object]] = []
        self._due_soon: list[Callable[[], None]] = []
        self._outbox: list[tuple[int, Run | Abort]] = []
        self._is_pass_due = False
        self._free_at_s = 0.0
        self.groups = [
            SimulatedGroup(first, range(first, first + group_size), self.speed, timeline, self._answered)
            for first in range(0, ranks, group_size)
        ]
        self._group_of = {rank: group for group in self.groups for rank in group.ranks}
        for group in self.groups:
            self.start(group)

    # -- what comes

    def submit(self, items: int, lengths: Lengths, owner: Owner = EVERYBODY, *, seed: int = 0) -> Batch:
        """A batch that comes whole: it is admitted, or comes again when the refusal says."""
        batch = self._new(items, lengths, owner, seed)
        made = batch.make(items)
        self._post(lambda: self._admit(batch, made))
        return batch

    def feed(self, items: int, lengths: Lengths, owner: Owner = EVERYBODY, *, seed: int = 0) -> Batch:
        """A batch that comes in windows, as one in the background does."""
        batch = self._new(items, lengths, owner, seed)
        self._post(lambda: self._open(batch))
        return batch

    def _new(self, items: int, lengths: Lengths, owner: Owner, seed: int) -> Batch:
        batch = Batch(items, lengths, seed, self.stats, self.timeline, owner)
        self.batches.append(batch)
        return batch

    def start(self, group: SimulatedGroup) -> None:
        """A new life of it begins to serve."""
        members = group.start()
        self._post(lambda: self.dispatcher.group_ready(group.number, members))

    def lose(self, group: SimulatedGroup, kind: LossKind, restart_s: float) -> None:
        """It is gone, and serves again after so long. While a node is away, others take over what is on trial."""
        group.lose()
        loss = Loss(kind, "the simulation wants it so", group.number)
        self._post(lambda: self.dispatcher.group_lost(group.number, loss))
        if kind is LossKind.NODE_LOST:
            self._post(lambda: self.dispatcher.group_given_up(group.number))
        self.timeline.after(restart_s, lambda: self.start(group))

    def run(self, until_s: float = float("inf")) -> None:
        """Until then, or until all is done, and nothing was lost or answered twice."""
        self.timeline.run(until_s)
        if until_s == float("inf"):
            assert all(batch.is_done for batch in self.batches), "items have no result"
            assert not (self.dispatcher.outstanding_tokens or self.dispatcher.running_items)
            self.stats.end()

    # -- the event loop

    def _answered(self, rank: int, incarnation: int, results: list[Result]) -> None:
        self.timeline.after(WIRE_S, lambda: self._post(partial(self._take, rank, incarnation, results)))

    def _take(self, rank: int, incarnation: int, results: list[Result]) -> None:
        self.results += len(results)
        self.dispatcher.results(rank, incarnation, results)

    def _admit(self, batch: Batch, items: list[Item]) -> None:
        try:
            self.admission.check_size(len(items), batch.flow.owner)
            self.admission.check_share(batch.flow.owner, len(items))
            self.admission.check_room(len(items), sum(item.cost for item in items))
        except TryLater as refusal:
            self.refusals += 1
            self.timeline.after(refusal.retry_after_s or 1.0, lambda: self._post(lambda: self._admit(batch, items)))
            return
        self.rate.busy()
        self.dispatcher.submit(batch.flow, items)

    def _open(self, batch: Batch) -> None:
        self.rate.busy()
        self.dispatcher.backlog.open(batch.flow)
        self._fed.append(batch)

    def _post(self, act: Callable[[], object]) -> None:
        """In the next pass."""
        self._inbox.append(act)
        if not self._is_pass_due:
            self._is_pass_due = True
            self.timeline.after(max(0.0, self._free_at_s - self.timeline.now_s), self._pass)

    def _soon(self, act: Callable[[], None]) -> None:
        self._due_soon.append(act)

    def _pass(self) -> None:
        self._is_pass_due = False
        self.passes += 1
        inbox, self._inbox = self._inbox, []
        results = self.results
        began = time.thread_time()
        for act in inbox:
            act()
        due, self._due_soon = self._due_soon, []
        for act in due:
            act()
        reads = self._reads()
        self.cpu_s += time.thread_time() - began
        took_s = self._item_s * (self.results - results)
        self._free_at_s = self.timeline.now_s + took_s
        outbox, self._outbox = self._outbox, []
        for rank, message in outbox:
            self.timeline.after(took_s + WIRE_S, partial(self._group_of[rank].receive, rank, message))
        for batch, count in reads:
            self._read(batch, count)

    # -- windows

    def _reads(self) -> list[tuple[Batch, int]]:
        """What of which batch is to be read now."""
        if not self._fed:
            return []
        window = window_of(self.dispatcher.slots, len(self._fed)).items
        room = self.admission.window_room
        lacking = [
            (batch, items_to_read(batch.flow, window, room)) for batch in self._fed if batch not in self._reading
        ]
        return [(batch, count) for batch, count in lacking if count]

    def _read(self, batch: Batch, count: int) -> None:
        items = batch.make(count)
        self._reading.add(batch)
        took_s = READ_S + READ_ITEM_S * len(items)
        self.timeline.after(took_s, lambda: self._post(lambda: self._supply(batch, items)))

    def _supply(self, batch: Batch, items: list[Item]) -> None:
        self._reading.discard(batch)
        self.dispatcher.submit(batch.flow, items)
        if not batch.has_more:
            self.dispatcher.backlog.close(batch.flow)
            self._fed.remove(batch)

    # -- what the dispatcher wants

    def _send(self, rank: int, message: Run | Abort) -> None:
        self._outbox.append((rank, message))

    def results_taken(self, rank: int, results: list[Result], completed_tokens: int) -> None:
        """A DispatchObserver's."""
        self.rate.observe(completed_tokens)
        tokens = sum(result.prompt_tokens + result.completion_tokens for result in results)
        self.tokens_by_second[int(self.timeline.now_s)] += tokens

    def group_lost(self, loss: Loss) -> None:
        """A DispatchObserver's."""
