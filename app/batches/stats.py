"""What a batch's answer says about how it ran."""

import time
from collections.abc import Callable

import msgspec
from msgspec import UNSET, UnsetType

from app.batches.hindsight import PredictionQuality
from app.batches.order_gain import OrderGain
from app.dispatch.item import Item
from engines.contract.protocol import Result


class RankShare(msgspec.Struct, kw_only=True):
    """One rank's part in a batch."""

    rank: int
    items: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    busy_s: float = 0.0  # the time in which the rank held at least one item of the batch


class Stats(msgspec.Struct, kw_only=True):
    """`stats` of an answer. Times are seconds."""

    wall_s: float
    queue_s: float  # from admission until the first item was sent to a rank
    tail_s: float  # from the first rank running dry to the end
    balance_ratio: float | None  # mean / max of the ranks' tokens; 1 is even
    stopped_by_length: int  # outputs that ended because max_tokens was reached
    ranks: list[RankShare]
    order_gain_s: float | UnsetType = UNSET  # predicted: of a batch whose last items left longest first
    prediction: PredictionQuality | UnsetType = UNSET  # of a batch that was large and long enough to tell


_encode = msgspec.json.Encoder().encode


class StatsKeeper:
    """Collects a batch's figures while it runs."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.prediction: PredictionQuality | UnsetType = UNSET
        self._admitted_at = self._clock()
        self._first_start: float | None = None
        self._ended_at: float | None = None
        self._shares: dict[int, RankShare] = {}
        self._holding: dict[int, int] = {}  # rank -> items of this batch that it holds
        self._since: dict[int, float] = {}  # rank -> when it got the first of those
        self._dry_at: dict[int, float] = {}  # rank -> when it finished its last
        self._stopped_by_length = 0
        self._held = self._most_held = 0  # sequences, on all ranks
        self._order_gain = OrderGain()
        self._order_gain_s: float | None = None  # once the batch has ended: it takes some milliseconds to find out

    def started(self, rank: int, item: Item) -> None:
        """An item is being sent to the rank."""
        now = self._clock()
        self._held += item.sequences
        self._most_held = max(self._most_held, self._held)
        if item.flow.waiting.is_longest_first:
            self._order_gain.began(item.index, now)
        if self._first_start is None:
            self._first_start = now
        if rank not in self._shares:
            self._shares[rank] = RankShare(rank=rank)
            self._holding[rank] = 0
        if self._holding[rank] == 0:
            self._since[rank] = now
        self._holding[rank] += 1

    def finished(self, rank: int, item: Item, result: Result) -> None:
        """The rank has answered an item."""
        self._order_gain.ended(item.index, result.completion_tokens // max(1, item.sequences))
        share = self._shares[rank]
        share.items += 1
        share.prompt_tokens += result.prompt_tokens
        share.completion_tokens += result.completion_tokens
        self._stopped_by_length += result.stopped_by_length
        self.released(rank, item)

    def released(self, rank: int, item: Item) -> None:
        """The rank does not hold one of its items any more."""
        self._held -= item.sequences
        self._holding[rank] -= 1
        if self._holding[rank] == 0:
            now = self._dry_at[rank] = self._clock()
            self._shares[rank].busy_s += now - self._since[rank]

    def end(self) -> None:
        """The batch has its last result."""
        self._ended_at = self._clock()
        self._order_gain_s = self._order_gain.predicted_s(self._most_held, self._ended_at)
        for rank, holding in self._holding.items():
            if holding:  # given up while the rank still held them
                self._shares[rank].busy_s += self._ended_at - self._since[rank]

    def summary(self) -> Stats:
        """The figures, final once the batch has ended."""
        end = self._ended_at or self._clock()
        shares = sorted(self._shares.values(), key=lambda share: share.rank)
        for share in shares:
            share.busy_s = round(share.busy_s, 4)
        tokens = [share.prompt_tokens + share.completion_tokens for share in shares]
        most = max(tokens, default=0)
        return Stats(
            wall_s=round(end - self._admitted_at, 4),
            queue_s=round((self._first_start or end) - self._admitted_at, 4),
            tail_s=round(end - min(self._dry_at.values(), default=end), 4),
            balance_ratio=round(sum(tokens) / len(tokens) / most, 4) if most else None,
            stopped_by_length=self._stopped_by_length,
            ranks=shares,
            order_gain_s=UNSET if self._order_gain_s is None else round(self._order_gain_s, 4),
            prediction=self.prediction,
        )

    def encoded(self) -> bytes:
        """The summary as JSON."""
        return _encode(self.summary())
