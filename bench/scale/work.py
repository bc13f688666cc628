"""What is asked of the simulated service: lengths of prompts and answers, and batches of such items.

A batch is the dispatcher's sink of its items, and sees to the promise: exactly one result for each.
"""

import math
import random
from collections.abc import Iterator

import msgspec

from app.batches.stats import StatsKeeper
from app.dispatch.item import EVERYBODY, Flow, Item, Owner
from app.dispatch.refill import Clock
from engines.contract.protocol import Outcome, PromptKind, Result

PARAMS = b"the same for all items of a batch"


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """Of items: prompts of one length, answers of one length or long-tailed.

    What is asked for is `max_tokens` for all, or the true length of each where they `are_known`.
    """

    name: str
    prompt_tokens: int = 100
    mean: float = 128.0
    sigma: float = 0.0  # of the logarithm; 0: all are the mean
    max_tokens: int = 128
    are_known: bool = False

    def draw(self, chance: random.Random) -> int:
        """Tokens of one answer."""
        if not self.sigma:
            return int(self.mean)
        mu = math.log(self.mean) - self.sigma**2 / 2
        return max(1, min(self.max_tokens, int(math.exp(chance.gauss(mu, self.sigma)))))

    def mean_tokens(self, chance: random.Random, draws: int = 20_000) -> float:
        """Of answers as they are drawn: what is cut at max_tokens is missing in it."""
        return sum(self.draw(chance) for _ in range(draws)) / draws


EQUAL = Lengths(name="equal")
TAILED = Lengths(name="long-tailed", sigma=1.0, max_tokens=1024)
KNOWN = Lengths(name="long-tailed, known", sigma=1.0, max_tokens=1024, are_known=True)


class Batch:
    """So many items of somebody's. `items` may be more than ever run."""

    def __init__(
        self, items: int, lengths: Lengths, seed: int, stats: StatsKeeper, clock: Clock, owner: Owner = EVERYBODY
    ) -> None:
        self.size = items
        self.flow = Flow(0, owner)
        self.came_s = clock()
        self.started_s: float | None = None  # when its first item was sent to a rank
        self.last_start_s = self.ended_s = 0.0
        self.made = self.ended = self.lost = self.tokens = 0
        self._clock = clock
        self._lengths = lengths
        self._chance = random.Random(seed)
        self._stats = stats
        self._has_result = bytearray(items)

    def make(self, count: int) -> list[Item]:
        """The next ones, as many as there are."""
        return [*self._make(min(count, self.size - self.made))]

    def _make(self, count: int) -> Iterator[Item]:
        prompt_tokens = self._lengths.prompt_tokens
        for index in range(self.made, self.made + count):
            tokens = self._lengths.draw(self._chance)
            prompt = b"[%d,%d,%d]" % (index, prompt_tokens, tokens)  # no two alike: nothing can be learned of one
            yield Item(
                self,
                self.flow,
                index,
                PromptKind.TOKEN_IDS,
                prompt,
                PARAMS,
                prompt_tokens=prompt_tokens,
                max_tokens=tokens if self._lengths.are_known else self._lengths.max_tokens,
            )
        self.made += count

    @property
    def is_done(self) -> bool:
        """Whether every item has its result."""
        return self.ended == self.size

    @property
    def has_more(self) -> bool:
        """Whether not all items have been made."""
        return self.made < self.size

    def item_started(self, item: Item, rank: int) -> None:
        """To a rank."""
        self.last_start_s = self._clock()
        if self.started_s is None:
            self.started_s = self.last_start_s
        self._stats.started(rank, item)

    def item_lost(self, item: Item, rank: int) -> None:
        """It runs again."""
        self.lost += 1
        self._stats.released(rank, item)

    def item_finished(self, item: Item, result: Result, rank: int | None) -> None:
        """Once for each item."""
        assert result.outcome is Outcome.OK, result
        assert not self._has_result[item.index], f"item {item.index} has two results"
        self._has_result[item.index] = 1
        self.ended += 1
        self.tokens += result.prompt_tokens + result.completion_tokens
        if rank is not None:
            self._stats.finished(rank, item, result)
        if self.is_done:
            self.ended_s = self._clock()
