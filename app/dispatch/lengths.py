"""How long the answers to a batch's prompts become, as its first answers tell.

Prompts that were made by one template begin or end alike, and their answers are of a kind. What is alike is not looked
for: the mean length of the answers is kept for some beginnings of each prompt, and for its end.
"""

import math
from collections.abc import Iterator

BEGINNINGS = (256, 64)  # bytes of a prompt: the longer part that is known says more
END = 24
SHORT_BEGINNING = 8
ENOUGH = 4  # answers that make a mean
UNLIKE = 1.5  # times as long
MOST_ANSWERS = 4096  # that are looked at
MOST_PARTS = 8192  # kept of one batch: prompts that have nothing in common would fill the memory


class Lengths:
    """Of the answers to one batch, in tokens of a sequence."""

    def __init__(self) -> None:
        self._answers = 0
        self._shortest, self._longest = math.inf, 0.0
        self._known: dict[tuple[int, bytes], tuple[int, float]] = {}  # by part: how many answers, and their tokens

    @property
    def differ(self) -> bool:
        """Whether answers are of many lengths, as far as is known."""
        return self._longest > UNLIKE * self._shortest

    def observe(self, prompt: bytes, tokens: float) -> None:
        """An answer to this prompt had so many."""
        self._answers += 1
        self._shortest, self._longest = min(self._shortest, tokens), max(self._longest, tokens)
        if self._answers > MOST_ANSWERS:
            return
        for part in _parts(prompt):
            count, total = self._known.get(part, (0, 0.0))
            if count or len(self._known) < MOST_PARTS:
                self._known[part] = (count + 1, total + tokens)

    def expected(self, prompt: bytes, most: float) -> float:
        """The tokens of an answer that has `most` at most: as many, while nothing else is known."""
        for part in _parts(prompt):
            count, total = self._known.get(part, (0, 0.0))
            if count >= ENOUGH:
                return min(most, total / count)
        return most


def _parts(prompt: bytes) -> Iterator[tuple[int, bytes]]:
    """What tells prompts apart, the most telling first."""
    for size in BEGINNINGS:
        if len(prompt) >= size:
            yield size, prompt[:size]
    yield -END, prompt[-END:]
    yield SHORT_BEGINNING, prompt[:SHORT_BEGINNING]
