"""Hands waiting items to ranks with credit, and each result to the item's owner: exactly one per item.

All of it is synchronous and decides on plain data; sending is the one effect, and it goes through `send`.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable

from app.dispatch.backlog import Backlog
from app.dispatch.credit import Fill, RankCredit
from app.dispatch.item import Flow, Item, ItemState
from app.dispatch.placement import Placement
from engines.protocol import Abort, ItemError, ItemErrorCode, Outcome, RankFacts, Result, Run

Send = Callable[[int, Run | Abort], None]  # to a rank's current incarnation


class Dispatcher:
    """The backlog, the credit of each ready rank, and what runs where."""

    def __init__(self, send: Send, placement: Placement, quantum_tokens: int, prefetch: int | None) -> None:
        self.backlog = Backlog(quantum_tokens)
        self._send = send
        self._placement = placement
        self._prefetch = prefetch
        self._fill = Fill()
        self._ranks: dict[int, tuple[int, RankCredit]] = {}  # rank -> its incarnation and credit, in order
        self._attempts = itertools.count(1)
        self.completed_tokens = 0  # the cost of what ranks have answered: what the rate is measured from

    # -- from the batches

    def submit(self, flow: Flow, items: list[Item]) -> None:
        """Accepts items. Their sink hears of each one exactly once."""
        self.backlog.add(flow, items)
        self.pump()

    def cancel(self, flow: Flow) -> None:
        """Forgets what a flow has waiting, and tells the ranks to give up what runs. Its sink hears nothing more."""
        for item in self.backlog.discard(flow):
            item.state = ItemState.DONE
            item.release()
        unwanted: dict[int, list[int]] = defaultdict(list)
        for item in flow.running:
            if item.state is ItemState.RUNNING:
                item.state = ItemState.DONE
                unwanted[item.rank].append(item.attempt)
        for rank, attempts in unwanted.items():
            self._send(rank, Abort(incarnation=self._ranks[rank][0], attempts=attempts))
        self.pump()

    # -- from the ranks

    def rank_ready(self, rank: int, incarnation: int, facts: RankFacts) -> None:
        """The rank takes items from now on. What a former life of it still held is lost."""
        self.rank_lost(rank, "it was started anew")
        self._ranks[rank] = (incarnation, RankCredit(rank, facts, self._prefetch, self._fill))
        self._ranks = dict(sorted(self._ranks.items()))
        self.pump()

    def rank_lost(self, rank: int, reason: str) -> None:
        """The rank takes nothing any more. What ran there ends in `rank_lost`."""
        if rank not in self._ranks:
            return
        _, credit = self._ranks.pop(rank)
        error = ItemError(ItemErrorCode.RANK_LOST, f"rank {rank} was lost while it ran this item: {reason}")
        for attempt in list(credit.running):
            self._end(credit, Result(attempt, Outcome.ERROR, error=error))

    def results(self, rank: int, incarnation: int, results: list[Result]) -> None:
        """Attempts that ended. Those of a former incarnation are dropped: their items have been answered."""
        current = self._ranks.get(rank)
        if current is None or current[0] != incarnation:
            return
        ended = 0
        for result in results:
            item = self._end(current[1], result)
            if item is not None and result.outcome is not Outcome.ABORTED:
                ended += item.sequences
                self.completed_tokens += item.cost
                self._fill.observe(item, result)
        current[1].observe_burst(ended)
        self.pump()

    # -- for those who look

    def held(self, rank: int) -> int:
        """Items that the rank holds now."""
        return len(self._ranks[rank][1].running) if rank in self._ranks else 0

    def credit(self, rank: int) -> int:
        """Sequences that the rank may take now."""
        return self._ranks[rank][1].credit if rank in self._ranks else 0

    @property
    def has_ranks(self) -> bool:
        """Whether any rank takes items."""
        return bool(self._ranks)

    @property
    def running_items(self) -> int:
        """Items on all ranks together."""
        return sum(len(credit.running) for _, credit in self._ranks.values())

    @property
    def outstanding_tokens(self) -> int:
        """Tokens that are waiting or running, by their cost."""
        return self.backlog.tokens + sum(credit.outstanding_tokens for _, credit in self._ranks.values())

    # -- the way of an item

    def pump(self) -> None:
        """Sends as much as there is credit for: one message per rank."""
        ranks = [credit for _, credit in self._ranks.values()]
        outbox: dict[int, Parcel] = {}
        while (item := self.backlog.head()) is not None:
            chosen = self._placement.choose(ranks, item)
            if chosen is None:
                break
            self._assign(item, chosen, outbox)
        for rank, parcel in outbox.items():
            self._send(rank, parcel.message)

    def _assign(self, item: Item, chosen: RankCredit, outbox: "dict[int, Parcel]") -> None:
        self.backlog.pop()
        item.state = ItemState.RUNNING
        item.attempts += 1
        item.attempt = next(self._attempts)
        item.rank = chosen.rank
        item.flow.running.add(item)
        chosen.take(item)
        if chosen.rank not in outbox:
            outbox[chosen.rank] = Parcel(self._ranks[chosen.rank][0])
        outbox[chosen.rank].add(item)
        item.sink.item_started(item, chosen.rank)

    def _end(self, credit: RankCredit, result: Result) -> Item | None:
        """The attempt's end. Its item, or None when the rank did not hold it."""
        item = credit.give_back(result.attempt)
        if item is None:
            return None
        item.flow.running.discard(item)
        self.backlog.settle(item, result.prompt_tokens + result.completion_tokens)
        if item.state is ItemState.RUNNING:
            item.state = ItemState.DONE
            item.sink.item_finished(item, result, credit.rank)
        item.release()
        return item


class Parcel:
    """The items that one rank gets in one message. Equal parameters travel once."""

    def __init__(self, incarnation: int) -> None:
        self.message = Run(incarnation=incarnation, params=[], items=[])
        self._indices: dict[bytes, int] = {}  # of the parameters in the message

    def add(self, item: Item) -> None:
        """Puts an item in."""
        index = self._indices.setdefault(item.params, len(self._indices))
        if index == len(self.message.params):
            self.message.params.append(item.params)
        self.message.items.append(item.message(index))
