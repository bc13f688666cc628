"""How many sequences of batches a rank begins at a time, while somebody waits for answers there.

Items of one length that have begun together end together, and a thousand successors that begin in one step hold up all
that runs beside them: their prompts, and the thousand results before them. So successors come in groups no larger than
what ends on average, or a bit: after a while, items end as they began, some at a time.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

from app.dispatch.item import Item

PERIOD_S = 0.05  # between two groups. Steps that take in prompts cost more than others: a group a step would be slow
GROWTH = 1.25  # of what ends: so that a rank that has room gets full
SMALLEST_PART = 16  # of all sequences, in a group: a full rank is empty, and full again, within a second
MEMORY_S = 2.0  # for how long what has ended counts
PROMPT_TOKENS = 64  # of a prompt, that count as one more sequence
Clock: TypeAlias = Callable[[], float]  # seconds, from any beginning


class Refill:
    """The groups of one rank."""

    def __init__(self, sequences: int, clock: Clock) -> None:
        self._least = max(1, sequences // SMALLEST_PART)
        self._ended_per_s = 0.0
        self._clock = clock
        self._seen = self._next = clock()
        self._left = 0.0

    def ended(self, sequences: int) -> None:
        """So many have ended at once."""
        now = self._clock()
        self._ended_per_s = self._ended_per_s * math.exp((self._seen - now) / MEMORY_S) + sequences / MEMORY_S
        self._seen = now

    @property
    def is_open(self) -> bool:
        """Whether the group has room for one more. An item that is larger than what is left is the group's last."""
        now = self._clock()
        if now >= self._next:
            self._next = now + PERIOD_S
            self._left = max(self._least, GROWTH * self._ended_per_s * PERIOD_S)
        return self._left > 0

    def begun(self, item: Item) -> None:
        """The item has joined the group."""
        self._left -= item.sequences + item.prompt_tokens / PROMPT_TOKENS
