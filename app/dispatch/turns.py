"""Deficit round robin (Shreedhar and Varghese, 1995): members take turns, and get equal tokens for equal weights.

Each turn puts a quantum of tokens on a member's account; the turn lasts while the account covers what comes first. A
member may be made of members of its own: keys share a priority, and the batches of a key share what the key gets.
"""

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

MOST_SAVED_QUANTA = 16  # of what settling gives back: a member that saved up more would crowd the others out for long


class Member(Protocol):
    """Has something waiting. `deficit` is its account, in tokens; `weight` is its share beside the others'."""

    deficit: int

    @property
    def weight(self) -> int: ...
    @property
    def first_cost(self) -> int: ...


M = TypeVar("M", bound=Member)


class Turns(Generic[M]):
    """Members with something waiting. The first one's turn has begun, its quantum is on its account."""

    def __init__(self, quantum_tokens: int) -> None:
        self._quantum = quantum_tokens
        self._members: OrderedDict[M, None] = OrderedDict()  # any may leave at any time, and there may be thousands
        self._has_had_turns_alone = False  # the only member: whoever comes now need not wait for the rest of another

    def __bool__(self) -> bool:
        return bool(self._members)

    def enter(self, member: M) -> None:
        """It has something waiting from now on, and its turn comes after all others', but at once after one who has
        had a turn with nobody else there."""
        member.deficit = 0
        self.come_back(member)

    def come_back(self, member: M) -> None:
        """The same for one whose account `pause` has kept."""
        others = len(self._members)
        self._members[member] = None
        if others == 1 and self._has_had_turns_alone:
            alone = self._first()
            alone.deficit = min(alone.deficit, 0)  # nobody has waited for what it has saved
            self._members.move_to_end(alone)
            self._begin_turn()
        elif not others:
            self._begin_turn()
        self._has_had_turns_alone = False

    def leave(self, member: M) -> None:
        """It has nothing waiting any more."""
        had_turn = self._first() is member
        del self._members[member]
        if had_turn and self._members:
            self._begin_turn()

    def pause(self, member: M) -> None:
        """It has nothing waiting for now. It keeps what it owes, and no more than a turn's worth of what it has."""
        self.leave(member)
        member.deficit = min(member.deficit, self._quantum * member.weight)

    def current(self) -> M:
        """Whose turn it is, with enough on its account for what it has first. There must be a member."""
        passed = 0
        while (first := self._first()).deficit < first.first_cost:
            self._has_had_turns_alone = len(self._members) == 1
            self._members.move_to_end(first)
            self._begin_turn()
            passed += 1
            if passed == len(self._members):
                self._skip_rounds()
        return first

    def settle(self, member: M, given_back: int) -> None:
        """Corrects a member's account by what was charged and not used; negative for what was used beyond."""
        quanta = MOST_SAVED_QUANTA if member in self._members else 1  # as `pause` has it
        most = max(member.deficit, quanta * self._quantum * member.weight)
        member.deficit = min(member.deficit + given_back, most)  # turns without a large item count no less

    def _first(self) -> M:
        return next(iter(self._members))

    def _begin_turn(self) -> None:
        first = self._first()
        first.deficit += self._quantum * first.weight

    def _skip_rounds(self) -> None:
        """Makes at once the rounds in which no member could afford what it has first: there may be millions."""
        rounds = min((m.first_cost - m.deficit - 1) // (self._quantum * m.weight) for m in self._members)
        for member in self._members:
            member.deficit += max(0, rounds) * self._quantum * member.weight
