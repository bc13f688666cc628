"""Items that wait, in fair order: strict between priorities, deficit round robin by tokens between flows within one.

A flow is what shares fairly with others: today a batch. Deficit round robin (Shreedhar and Varghese, 1995) gives
each flow a quantum of tokens per turn; what an item really used is settled when it is done, so that a flow which
asked for many tokens and used few is not held back for it.
"""

from collections import deque

from app.dispatch.item import Flow, Item

MOST_SAVED_QUANTA = 16  # of what settling gives back: a flow that saved up more would crowd the others out for long


class Backlog:
    """What is accepted and not dispatched. `items` and `tokens` count what waits."""

    def __init__(self, quantum_tokens: int) -> None:
        self._quantum = quantum_tokens
        # By priority: the flows with waiting items. The first one's turn has begun, its quantum is on its account.
        self._levels: dict[int, deque[Flow]] = {}
        self._order: list[int] = []  # the priorities that are in use, lowest first
        self.items = 0
        self.tokens = 0

    def add(self, flow: Flow, items: list[Item]) -> None:
        """Appends items to a flow."""
        if not items:
            return
        if not flow.waiting:
            self._enter(flow)
        flow.waiting.extend(items)
        for item in items:
            self.count(item)

    def put_back(self, items: list[Item]) -> None:
        """Items that were popped and have to run again, to the head of their flows, in this order."""
        for item in reversed(items):
            flow = item.flow
            if flow.waiting:
                flow.deficit += item.cost
            else:
                self._enter(flow)
            flow.waiting.appendleft(item)
            self.count(item)

    def count(self, item: Item) -> None:
        """Counts an item as waiting: one that waits elsewhere, too."""
        self.items += 1
        self.tokens += item.cost

    def uncount(self, item: Item) -> None:
        """The opposite."""
        self.items -= 1
        self.tokens -= item.cost

    def head(self) -> Item | None:
        """The item whose turn it is. It stays until `pop`; the same one is returned until then."""
        flow = self._current()
        return flow.waiting[0] if flow else None

    def pop(self) -> Item:
        """Takes the item that `head` has shown. Raises LookupError when nothing waits."""
        flow = self._current()
        if flow is None:
            raise LookupError("the backlog is empty")
        item = flow.waiting.popleft()
        flow.deficit -= item.cost
        self.uncount(item)
        if not flow.waiting:
            self._leave(flow)
        return item

    def settle(self, item: Item, used_tokens: int) -> None:
        """Corrects the account of the item's flow by what the item really used."""
        flow = item.flow
        if not flow.waiting:
            return
        settled = flow.deficit + item.cost - used_tokens
        most = max(flow.deficit, MOST_SAVED_QUANTA * self._quantum)  # turns without a large item count no less
        flow.deficit = min(settled, most)

    def discard(self, flow: Flow) -> list[Item]:
        """Takes everything that a flow has waiting."""
        items = list(flow.waiting)
        for item in items:
            self.uncount(item)
        flow.waiting.clear()
        if items:
            self._leave(flow)
        return items

    def _enter(self, flow: Flow) -> None:
        if flow.priority not in self._levels:
            self._levels[flow.priority] = deque()
            self._order = sorted(self._levels)
        turn = self._levels[flow.priority]
        flow.deficit = 0 if turn else self._quantum
        turn.append(flow)

    def _leave(self, flow: Flow) -> None:
        """The flow has nothing waiting any more."""
        turn = self._levels[flow.priority]
        had_turn = turn[0] is flow
        turn.remove(flow)
        if not turn:
            del self._levels[flow.priority]
            self._order.remove(flow.priority)
        elif had_turn:
            turn[0].deficit += self._quantum

    def _current(self) -> Flow | None:
        """The flow whose turn it is, with enough on its account for its first item."""
        if not self._order:
            return None
        turn = self._levels[self._order[0]]
        passed = 0
        while turn[0].deficit < turn[0].waiting[0].cost:
            turn.rotate(-1)  # its turn is over; the next one's begins with a quantum
            turn[0].deficit += self._quantum
            passed += 1
            if passed == len(turn):
                self._skip_rounds(turn)
        return turn[0]

    def _skip_rounds(self, turn: deque[Flow]) -> None:
        """Makes at once the rounds in which no flow could afford its first item: there may be millions."""
        rounds = min((flow.waiting[0].cost - flow.deficit - 1) // self._quantum for flow in turn)
        for flow in turn:
            flow.deficit += max(0, rounds) * self._quantum
