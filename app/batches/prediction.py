"""When a batch will be done: what is left of it, played forward with what is known of lengths and pace.

Played in pieces of a length: of the sequences that run, some end in each piece, and waiting ones take their places.
The batch is over when the odds are even that none runs any more. Nothing here knows I/O; the pace has the clock.

From a quarter of a batch on, half of the predictions are within 20 % of the time that it really takes. Where all of a
small batch runs at once, and max_tokens is far beyond any answer, nobody can know how long the last ones become, and
the prediction is too long.
"""

import math
from dataclasses import dataclass

from app.batches.lengths import LengthPrior, Lengths, rounded
from app.batches.pace import Pace, Stay

EVEN_ODDS = math.log(2)  # expected survivors, when none has survived with even odds
PIECES = 48  # of the way to a length that few exceed
MOST_PIECES = 192  # of the way to max_tokens
PLAYED_TURNS = 6  # of all slots; what waits beyond them goes at the same pace, and is not played


@dataclass(frozen=True)
class WorkAhead:
    """What a batch shares the ranks with, in sequences and in tokens that these are expected to take.

    `share` of the slots is the batch's while others beside it have something; those before it have all of them.
    """

    slots: int  # sequences that run at once
    share: float = 1.0
    tokens_before: float = 0.0
    tokens_beside: float = 0.0


@dataclass(frozen=True)
class BatchSize:
    """What a batch's items may generate: `sequences` times their max_tokens."""

    sequences: int
    max_completion_tokens: int

    @property
    def max_tokens(self) -> float:
        """Of a sequence."""
        return max(1.0, self.max_completion_tokens / max(1, self.sequences))


class BatchForecast:
    """Of one batch. Told of each item that is sent to a rank, and of its end."""

    def __init__(self, size: BatchSize, pace: Pace, prior: LengthPrior) -> None:
        self._size = size
        self._pace = pace
        self._lengths = Lengths(prior)
        self._stays: dict[int, Stay] = {}
        self._waiting = size.sequences

    def grow(self, more: BatchSize) -> None:
        """More items have come than it was begun with."""
        self._size = BatchSize(
            self._size.sequences + more.sequences, self._size.max_completion_tokens + more.max_completion_tokens
        )
        self._waiting += more.sequences

    def holds(self, index: int) -> bool:
        """Whether the item is on a rank."""
        return index in self._stays

    def started(self, index: int, sequences: int = 1) -> None:
        """The item was sent to a rank."""
        self._stays[index] = self._pace.began(sequences)
        self._waiting -= sequences

    def lost(self, index: int) -> None:
        """The item came back without a result, and will run again."""
        stay = self._stays.pop(index)
        self._pace.ended(stay, None)
        self._waiting += stay.sequences

    def finished(self, index: int, completion_tokens: int, *, is_cut: bool = False) -> None:
        """The item has its result; `is_cut`: its max_tokens ended it."""
        stay = self._stays.pop(index)
        tokens = completion_tokens / stay.sequences
        self._pace.ended(stay, tokens)
        if completion_tokens:
            self._lengths.add(round(tokens), is_cut=is_cut)

    def close(self) -> None:
        """Nothing more of the batch runs."""
        for stay in self._stays.values():
            self._pace.ended(stay, None)
        self._stays.clear()
        self._waiting = 0

    def drop(self, sequences: int) -> None:
        """So many of those that wait will never run."""
        self._waiting -= sequences

    @property
    def expected_tokens(self) -> float:
        """That are left to generate, about: what others may have to wait for."""
        running = sum(stay.sequences for stay in self._stays.values())
        return (self._waiting + running / 2) * self._lengths.mean(self._size.max_tokens)

    def predict(self, ahead: WorkAhead) -> float | None:
        """Seconds until the batch is done. None before anything was measured."""
        if self._pace.seconds_per_token(1) is None:
            return None
        stays = self._stays.values()
        held = [(age, stay.sequences) for age, stay in zip(self._pace.ages(stays), stays, strict=True)]
        running = [(age, sequences) for age, sequences in held if age is not None]
        waiting = self._waiting + sum(sequences for age, sequences in held if age is None)
        most, ages = self._size.max_tokens, rounded(running)
        self._lengths.learn(ages, most)
        pieces = max(1, min(MOST_PIECES, int(most), math.ceil(PIECES * most / self._lengths.reach(most))))
        alive = [0.0] * pieces
        for age, sequences in running:
            alive[min(pieces - 1, int(age / most * pieces))] += sequences
        ends = self._lengths.ends(ages, most, pieces)
        return _play(alive, waiting, ends, most / pieces, self._pace, ahead)


def _play(alive: list[float], waiting: float, ends: list[float], width: float, pace: Pace, ahead: WorkAhead) -> float:
    """Seconds until nothing is left. `width` are the tokens of a piece."""
    played = min(waiting, float(PLAYED_TURNS * ahead.slots))
    skipped = (waiting - played) * width * sum(_reaching(ends))  # tokens
    passed = min(ahead.tokens_beside, skipped * (1 / ahead.share - 1))
    seconds = (ahead.tokens_before + skipped + passed) / ahead.slots * (pace.seconds_per_token(ahead.slots) or 0.0)
    waiting, beside, present = played, ahead.tokens_beside - passed, sum(alive)
    while waiting > EVEN_ODDS or present > EVEN_ODDS:
        room = ahead.slots * (ahead.share if beside > 0 else 1.0)
        starting = min(waiting, max(0.0, room - present))
        waiting -= starting
        alive[0] += starting
        present += starting
        others = max(0.0, ahead.slots - present) if beside > 0 else 0.0
        beside -= others * width
        seconds += width * (pace.seconds_per_token(present + others) or 0.0)
        alive = [0.0, *(count * (1 - end) for count, end in zip(alive[:-1], ends[:-1], strict=True))]
        present = sum(alive)
    return seconds


def _reaching(ends: list[float]) -> list[float]:
    """The share of sequences that reach each piece."""
    found, reach = [], 1.0
    for end in ends:
        found.append(reach)
        reach *= 1 - end
    return found
