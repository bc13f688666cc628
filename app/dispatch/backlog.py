"""Items that wait, in fair order: strict between priorities; within one, fair by tokens between those who sent them,
and then between the batches of each.

Both are deficit round robin (turns.py); what an item really used is settled when it is done, so that who asked for
many tokens and used few is not held back for it. Somebody with a hundred batches gets no more than one with one.

A flow whose items come in windows is opened, and keeps its account, and its owner's, while it has none: an account that
began anew with each window would forget what was used beyond its charge. While it is empty its turns pass.
"""

import bisect
from collections import OrderedDict
from dataclasses import dataclass

from app.dispatch.item import Flow, Item, Owner, Party
from app.dispatch.turns import Turns


@dataclass
class Waiting:
    """What somebody has in the backlog."""

    items: int = 0
    tokens: int = 0


class Level:
    """One priority: its owners, by their ids, and those of them with something waiting in turn."""

    def __init__(self, quantum_tokens: int) -> None:
        self.parties: dict[str, Party] = {}
        self.turns: Turns[Party] = Turns(quantum_tokens)


class Backlog:
    """What is accepted and not dispatched. `items` and `tokens` count what waits."""

    def __init__(self, quantum_tokens: int, *, keeps_together: bool = False) -> None:
        self._quantum = quantum_tokens
        self._levels: dict[int, Level] = {}  # by priority: those that are in use
        self._order: list[int] = []  # those with something waiting, lowest first
        self._owners: dict[str, Waiting] = {}  # by id: those with something waiting
        self._online: OrderedDict[str, OrderedDict[Flow, None]] = OrderedDict()  # in turn, by owner: flows in order
        self.open_ended = 0  # flows of which more comes
        self._keeps_together = keeps_together
        self.items = 0
        self.tokens = 0

    def add(self, flow: Flow, items: list[Item]) -> None:
        """Appends items to a flow."""
        if not items:
            return
        if not flow.waiting and not flow.is_held_back:
            self._enter(flow)
        if self._keeps_together:
            flow.waiting.keep_together()
        flow.waiting.extend(items)
        for item in items:
            self.count(item)

    def put_back(self, items: list[Item]) -> None:
        """Items that were popped and have to run again, to the head of their flows, in this order."""
        for item in reversed(items):
            flow = item.flow
            is_in_turn = bool(flow.waiting) and not flow.is_held_back
            if flow.party is not None and (is_in_turn or flow.is_open_ended):
                flow.party.deficit += item.cost
                flow.deficit += item.cost
            if not is_in_turn and not flow.is_held_back:  # else its turn comes when it is released
                self._enter(flow)
            flow.waiting.put_first(item)
            self.count(item)

    def current(self) -> Flow | None:
        """The flow whose turn it is, until `pop`. It says which item goes to which rank."""
        if not self._order:
            return None
        return self._current_party().flows.current()

    def pop(self, rank: int | None = None) -> Item:
        """Takes the item of the current flow that goes to this rank. Raises LookupError when nothing waits."""
        if not self._order:
            raise LookupError("the backlog is empty")
        return self._take_first(self._current_party().flows.current(), rank)

    def online_head(self) -> Item | None:
        """The item that somebody waits for and that comes first for what is kept for such; whose turn it is does not
        matter, but it is charged as any other."""
        if not self._online:
            return None
        return next(iter(next(iter(self._online.values())))).waiting.first()

    def pop_online(self) -> Item:
        """Takes the item that `online_head` has shown; another owner's is the next one. There must be one."""
        owner, flows = next(iter(self._online.items()))
        self._online.move_to_end(owner)
        return self._take_first(next(iter(flows)))

    def _take_first(self, flow: Flow, rank: int | None = None) -> Item:
        party = self._levels[flow.priority].parties[flow.owner.id]
        item = flow.waiting.pop(rank)
        party.deficit -= item.cost
        flow.deficit -= item.cost
        self.uncount(item)
        if not flow.waiting:
            self._leave(flow)
        return item

    def settle(self, item: Item, used_tokens: int) -> None:
        """Corrects the accounts that the item was charged to by what it really used; those that are closed are not."""
        flow, given_back = item.flow, item.cost - used_tokens
        if flow.party is None or flow.party.is_closed:
            return
        self._levels[flow.priority].turns.settle(flow.party, given_back)
        if flow.is_open_ended or (flow.waiting and not flow.is_held_back):
            flow.party.flows.settle(flow, given_back)

    def discard(self, flow: Flow) -> list[Item]:
        """Takes everything that a flow has waiting."""
        items = list(flow.waiting)
        for item in items:
            self.uncount(item)
        flow.waiting.clear()
        if items and not flow.is_held_back:
            self._leave(flow)
        return items

    def hold(self, flow: Flow) -> None:
        """Passes the flow over until `release`. What it has waiting still counts as waiting."""
        if flow.is_held_back:
            return
        flow.is_held_back = True
        if flow.waiting:
            self._leave(flow)

    def release(self, flow: Flow) -> None:
        """The flow has its turns again."""
        if not flow.is_held_back:
            return
        flow.is_held_back = False
        if flow.waiting:
            self._enter(flow)

    def open(self, flow: Flow) -> None:
        """More of the flow will come: until `close` it keeps its account, also while it has nothing waiting."""
        if not flow.is_open_ended:
            flow.is_open_ended = True
            flow.party = self._party_of(flow)
            flow.party.open_ended += 1
            self.open_ended += 1

    def close(self, flow: Flow) -> None:
        """No more of the flow will come; what waits has its turns. May be called twice."""
        if flow.is_open_ended and flow.party is not None:
            flow.is_open_ended = False
            flow.party.open_ended -= 1
            self.open_ended -= 1
            self._forget_if_closed(flow, flow.party)

    # -- for admission

    def waiting_of(self, owner: Owner) -> Waiting:
        """What an owner has here, in all priorities together."""
        return self._owners.get(owner.id) or Waiting()

    @property
    def owners(self) -> int:
        """How many have something here."""
        return len(self._owners)

    # -- the order

    def _current_party(self) -> Party:
        """The owner whose turn it is, of the lowest priority."""
        return self._levels[self._order[0]].turns.current()

    def _enter(self, flow: Flow) -> None:
        """The flow has something waiting from now on."""
        party = flow.party = self._party_of(flow)
        if not party.flows:
            turns = self._levels[flow.priority].turns
            if not turns:
                bisect.insort(self._order, flow.priority)
            turns.come_back(party)
        if flow.is_open_ended:
            party.flows.come_back(flow)
        else:
            party.flows.enter(flow)
        if flow.is_online:
            self._online.setdefault(flow.owner.id, OrderedDict())[flow] = None

    def _leave(self, flow: Flow) -> None:
        """The flow has nothing waiting any more, or for now."""
        level = self._levels[flow.priority]
        party = level.parties[flow.owner.id]
        if flow.is_online:
            self._online[flow.owner.id].pop(flow)
            if not self._online[flow.owner.id]:
                del self._online[flow.owner.id]
        if flow.is_open_ended:
            party.flows.pause(flow)
        else:
            party.flows.leave(flow)
        if party.flows:
            return
        level.turns.pause(party)
        if not level.turns:
            del self._order[bisect.bisect_left(self._order, flow.priority)]
        self._forget_if_closed(flow, party)

    def _party_of(self, flow: Flow) -> Party:
        """Its owner's account for its priority: the one that is kept, or else a new one."""
        level = self._levels.get(flow.priority)
        if level is None:
            level = self._levels[flow.priority] = Level(self._quantum)
        party = level.parties.get(flow.owner.id)
        if party is None:
            party = level.parties[flow.owner.id] = Party(flow.owner.weight, self._quantum)
        return party

    def _forget_if_closed(self, flow: Flow, party: Party) -> None:
        """An owner's account closes with its last flow."""
        if not party.is_closed:
            return
        level = self._levels[flow.priority]
        del level.parties[flow.owner.id]
        if not level.parties:
            del self._levels[flow.priority]

    # -- counting

    def count(self, item: Item) -> None:
        """Counts an item as waiting: one that waits elsewhere, too."""
        waiting = self._owners.setdefault(item.flow.owner.id, Waiting())
        waiting.items += 1
        waiting.tokens += item.cost
        self.items += 1
        self.tokens += item.cost

    def uncount(self, item: Item) -> None:
        """The opposite."""
        owner = item.flow.owner.id
        waiting = self._owners[owner]
        waiting.items -= 1
        waiting.tokens -= item.cost
        self.items -= 1
        self.tokens -= item.cost
        if not waiting.items:
            del self._owners[owner]
