"""Hands waiting items to ranks with credit, and each result to the item's owner: exactly one per item.

All of it is synchronous and decides on plain data; sending is the one effect, and it goes through `send`. Items whose
group is lost run again: at the head of the backlog, or on trial if one of them may have been the cause (trial.py).
"""

import itertools
import time
from collections import defaultdict

from app.dispatch.backlog import Backlog
from app.dispatch.credit import Fill, RankCredit
from app.dispatch.figures import DispatchFigures
from app.dispatch.group import DispatchGroup
from app.dispatch.item import Flow, Item, ItemState
from app.dispatch.lanes import Lanes, Later, Soon
from app.dispatch.observer import DispatchObserver
from app.dispatch.outbox import Outbox, Send
from app.dispatch.placement import Placement, in_order
from app.dispatch.refill import Clock
from app.dispatch.reservations import Reservations
from app.dispatch.trial import verdict
from app.ranks.events import Aftermath, Loss, Member
from engines.contract.protocol import Abort, Chunk, Outcome, Result

LONGEST_PUMP_S = 0.02  # in one pass of the event loop: a thousand batches with unlike items are slow to order


class Dispatcher(DispatchFigures):
    """The backlog, the credit of each ready rank, and what runs where."""

    def __init__(
        self,
        send: Send,
        placement: Placement,
        quantum_tokens: int,
        prefetch: int | None,
        later: Later,
        soon: Soon = lambda act: act(),
        observer: DispatchObserver | None = None,
        online_share: float = 0.0,
        clock: Clock = time.monotonic,
        waves: bool = False,
    ) -> None:
        super().__init__(Backlog(quantum_tokens, keeps_together=placement.keeps_together))
        self._send = send
        self._placement = placement
        self._prefetch = prefetch
        self._soon = soon
        self._observer = observer
        self.reservations = Reservations(self.backlog)
        self._lanes = Lanes(self.backlog, placement, self.reservations, online_share, later, clock, waves)
        self._clock = clock
        self._is_pump_due = False
        self._fill = Fill()
        self._given_up: set[int] = set()  # groups that will not come back by themselves
        self._attempts = itertools.count(1)
        self.requeued_items = 0  # attempts that were lost and had to be made again
        self.convicted = 0  # culprits found so far that somebody still wanted

    # -- from the batches

    def submit(self, flow: Flow, items: list[Item]) -> None:
        """Accepts items. Their sink hears of each one exactly once."""
        self.backlog.add(flow, items)
        self._pump_soon()

    def submit_instant(self, flow: Flow, item: Item) -> None:
        """Accepts an item that takes no sequence: it goes to a rank at once, unless none takes items now."""
        ranks = [
            rank
            for group in self._groups.values()
            if group.takes_items and self._trials.current(group.number) is None
            for rank in group.ranks
        ]
        chosen = self._placement.choose(sorted(ranks, key=in_order), item)
        if chosen is None:
            self.submit(flow, [item])
            return
        outbox = Outbox()
        self._assign(item, chosen, outbox)
        outbox.send(self._send)

    def cancel(self, flow: Flow) -> None:
        """Forgets what a flow has waiting, and tells the ranks to give up what runs. Its sink hears nothing more."""
        suspects = self._trials.take_back(flow)
        for item in suspects:
            self.backlog.uncount(item)
        for item in (*suspects, *self.reservations.take_back(flow), *self.backlog.discard(flow)):
            item.state = ItemState.DONE
            item.release()
        self.backlog.close(flow)
        unwanted: dict[int, list[int]] = defaultdict(list)
        for item in flow.running:
            if item.state is ItemState.RUNNING:
                item.state = ItemState.DONE
                unwanted[item.rank].append(item.attempt)
        for rank, attempts in unwanted.items():
            self._send(rank, Abort(incarnation=self._ranks[rank].incarnation, attempts=attempts))
        self._pump_soon()

    def hold_back(self, flow: Flow) -> None:
        """Dispatches nothing more of a flow until `let_go`; what runs is finished. May be called twice."""
        self.backlog.hold(flow)
        self.reservations.put_back(flow)

    def let_go(self, flow: Flow) -> None:
        """The flow goes on, behind all others of its owner. Does nothing to one that is not held back."""
        self.backlog.release(flow)
        self._pump_soon()

    # -- from the groups

    def group_ready(self, group: int, members: list[Member], *, takes_items: bool = True) -> None:
        """All ranks of the group run items from now on. It must be new, or have been lost."""
        if group in self._groups:
            raise RuntimeError(f"group {group} is ready already")
        share, clock = self._lanes.online_share, self._clock
        ranks = [RankCredit(m.rank, m.incarnation, m.facts, self._prefetch, self._fill, share, clock) for m in members]
        self._groups[group] = DispatchGroup(group, ranks, takes_items)
        self._lanes.join(ranks)
        self._ranks |= {rank.rank: rank for rank in ranks}
        self._given_up.discard(group)
        for other in self._given_up if takes_items else ():
            self._trials.move(other, group)
        self._pump_soon()

    def group_draining(self, group: int) -> None:
        """The group finishes what it holds, what is on trial there counted in, and takes nothing new."""
        if group in self._groups:
            self._groups[group].takes_items = False
            self._pump_soon()  # what waits for one of its ranks has to go elsewhere

    def group_lost(self, group: int, loss: Loss) -> Aftermath:
        """The group takes nothing any more. What ran there runs again."""
        if self._observer is not None:
            self._observer.group_lost(loss)
        lost = self._groups.pop(group, None)
        if lost is None:
            return Aftermath(explained=self._trials.explained(group))
        for rank in lost.ranks:
            del self._ranks[rank.rank]
        attempts = lost.give_back_all()
        for item in attempts:
            item.flow.running.discard(item)
        judgement = self._trials.judge(group, loss, attempts)
        if judgement.culprit is not None and judgement.culprit.state is ItemState.RUNNING:
            self._convict(judgement.culprit, loss)
        self._run_lost_again(attempts)
        self._pump_soon()
        return Aftermath(judgement.was_trial, self._trials.explained(group))

    def group_given_up(self, group: int) -> None:
        """The group does not come back by itself: others have to run its trials, now or once they are ready."""
        self._given_up.add(group)
        others = [other.number for other in self._groups.values() if other.takes_items]
        if others:
            self._trials.move(group, min(others, key=self._trials.suspects))
        self._pump_soon()

    def results(self, rank: int, incarnation: int, results: list[Result]) -> None:
        """Attempts that ended. Those of a former incarnation are dropped: their items run again, or have run."""
        credit = self._ranks.get(rank)
        if credit is None or credit.incarnation != incarnation:
            return
        ended = completed_tokens = 0
        for result in results:
            item = self._end(credit, result)
            if item is not None and result.outcome is not Outcome.ABORTED:
                ended += item.sequences
                completed_tokens += item.cost
                self._fill.observe(item, result)
        credit.observe_burst(ended)
        self._pump_soon()
        if self._observer is not None:
            self._observer.results_taken(rank, results, completed_tokens)

    def chunks(self, rank: int, incarnation: int, chunks: list[Chunk]) -> None:
        """What has come of attempts that stream. Nobody hears of those that were given up."""
        credit = self._ranks.get(rank)
        if credit is None or credit.incarnation != incarnation:
            return
        for chunk in chunks:
            item = credit.running.get(chunk.attempt)
            if item is not None and item.stream is not None and item.state is ItemState.RUNNING:
                item.has_begun = True
                item.stream.item_chunk(item, chunk)

    # -- the way of an item

    def _pump_soon(self) -> None:
        """Once what else has come is here: many small batches, and the results of all ranks, cost one message each."""
        if not self._is_pump_due:
            self._is_pump_due = True
            self._soon(self.pump)

    def pump(self) -> None:
        """Sends as much as there is credit for: one message per rank, unless it takes so long that others must wait."""
        self._is_pump_due = False
        outbox, until = Outbox(), self._clock() + LONGEST_PUMP_S
        free = list(self._groups.values())
        if self._trials:
            free = [group for group in free if not self._run_trial(group, outbox, until)]
        ranks = sorted((rank for group in free if group.takes_items for rank in group.ranks), key=in_order)
        self._lanes.serve(ranks, lambda item, rank: self._assign(item, rank, outbox), until, self._pump_soon)
        outbox.send(self._send)
        if self._clock() > until:
            self._pump_soon()

    def _run_trial(self, group: DispatchGroup, outbox: Outbox, until: float) -> bool:
        """Whether the group has a trial to run. Its items are sent once nothing else runs there."""
        trial = self._trials.current(group.number)
        if trial is None:
            return False
        while trial.waiting and group.runs_only(trial) and self._clock() < until:
            chosen = self._placement.choose(group.ranks, trial.next)
            if chosen is None:
                break
            item = trial.start()
            self.backlog.uncount(item)
            self._assign(item, chosen, outbox)
        return True

    def _assign(self, item: Item, chosen: RankCredit, outbox: Outbox) -> None:
        item.state = ItemState.RUNNING
        item.attempts += 1
        item.attempt = next(self._attempts)
        item.rank, item.incarnation = chosen.rank, chosen.incarnation
        item.flow.running.add(item)
        chosen.take(item)
        item.sink.item_started(item, chosen.rank)  # it may give the item a context to take along
        outbox.add(chosen, item)

    def _end(self, credit: RankCredit, result: Result) -> Item | None:
        """The attempt's end. Its item, or None when the rank did not hold it, or it has to run again."""
        item = credit.give_back(result.attempt)
        if item is None:
            return None
        item.flow.running.discard(item)
        unasked = (Outcome.LOST, Outcome.ABORTED)  # of an item that somebody wants
        if result.outcome in unasked and item.state is ItemState.RUNNING:
            last = item.broken_off(result) if item.has_begun else item.lose(result)
            if last is None:
                self._run_again(item, credit.rank)
                return None
            result = last
        self.backlog.settle(item, result.prompt_tokens + result.completion_tokens)
        item.flow.waiting.learn(item, result)
        self._finish(item, result, credit.rank)
        return item

    def _run_again(self, item: Item, rank: int) -> None:
        item.state = ItemState.WAITING
        item.sink.item_lost(item, rank)
        self.requeued_items += 1
        if item.trial is not None:
            item.trial.retry(item)
            self.backlog.count(item)
        else:
            self.backlog.put_back([item])

    def _finish(self, item: Item, result: Result, rank: int) -> None:
        """The item's one result, unless it had been given up before."""
        if item.state is not ItemState.DONE:
            item.state = ItemState.DONE
            item.sink.item_finished(item, result, rank)
        self._close(item)

    def _close(self, item: Item) -> None:
        self._trials.release(item)
        item.release()

    # -- what was lost

    def _run_lost_again(self, attempts: list[Item]) -> None:
        """At the head of the backlog, or on trial; what nobody wants any more is forgotten. A stream that has begun can
        only be tried, for its client has had the beginning of another answer."""
        again = []
        for item in attempts:
            if item.has_begun and item.trial is None and item.state is ItemState.RUNNING:
                self._finish(item, item.broken_off(Result(item.attempt, Outcome.LOST)), item.rank)
            elif item.state is ItemState.RUNNING:
                again.append(item)
        for item in again:
            item.state = ItemState.WAITING
            item.sink.item_lost(item, item.rank)
        self.requeued_items += len(again)
        self.backlog.put_back([item for item in again if item.trial is None])
        for item in again:
            if item.trial is not None:
                self.backlog.count(item)
        for item in attempts:
            if item.state is ItemState.DONE:
                self._close(item)

    def _convict(self, culprit: Item, loss: Loss) -> None:
        self.convicted += 1
        self._finish(culprit, Result(culprit.attempt, Outcome.ERROR, error=verdict(loss.reason)), culprit.rank)
