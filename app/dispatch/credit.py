"""How much each rank may hold. Late binding: a rank gets what it can run, plus a little so that it never waits."""

import math
import time
from typing import TYPE_CHECKING

from app.dispatch.item import Item
from app.dispatch.prefixes import RunningPrefixes
from app.dispatch.refill import Clock, Refill
from engines.contract.protocol import Outcome, RankFacts, Result

if TYPE_CHECKING:
    from app.dispatch.waves import Wave

MIN_PREFETCH = 8
BURST_DECAY = 0.98  # of the largest burst, with every message of results: after 34 smaller ones half of it is forgotten
SMALL = 16  # a part of what a rank holds that is not worth keeping the rank for
FILL_WEIGHT = 0.02  # of one more finished item in the running mean


class Fill:
    """How much of its max_tokens an item really uses, as a running mean: what it is expected to occupy."""

    def __init__(self) -> None:
        self._mean = 1.0

    def observe(self, item: Item, result: Result) -> None:
        """Learns from a finished item."""
        asked = item.cost - item.prompt_tokens
        if result.outcome is Outcome.OK and asked > 0 and result.completion_tokens:
            self._mean += FILL_WEIGHT * (min(1.0, result.completion_tokens / asked) - self._mean)

    def expected_tokens(self, item: Item) -> float:
        """Tokens of KV cache that the item is expected to take in the end."""
        return item.prompt_tokens + self._mean * (item.cost - item.prompt_tokens)


class RankCredit:
    """One rank's credit: sequences it may still take, bounded by the tokens that its KV cache holds.

    Unless it is told how much to prefetch, a rank holds in advance as many sequences as lately ended at once. Items of
    one length end together, in one step, and their successors must be there, or the rank makes steps that are half
    empty; items of many lengths end one by one, and what is held in advance for them is bound too early for nothing.
    """

    def __init__(
        self,
        rank: int,
        incarnation: int,
        facts: RankFacts,
        prefetch: int | None,
        fill: Fill,
        online_share: float = 0.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self.rank = rank
        self.incarnation = incarnation
        self.max_num_seqs = facts.max_num_seqs
        self._prefetch = prefetch
        self._burst = float(facts.max_num_seqs)  # until something has ended: the most that can
        self._most_in_advance: int | None = None
        self._most_held = self._with_prefetch()
        self.running: dict[int, Item] = {}  # by attempt
        self.outstanding_tokens = 0
        self._sequences = 0
        self._online_sequences = 0
        self._most_reserved = min(facts.max_num_seqs - 1, math.ceil(online_share * facts.max_num_seqs))
        self.reserves = False  # whether sequences are kept for those that somebody waits for
        self.refill = Refill(facts.max_num_seqs, clock)
        self.wave: Wave | None = None  # of its group, if that is in lock-step
        self.has_graphs = facts.device != "cpu"
        self._kv_cache_tokens = facts.kv_cache_tokens
        self._kv_block_tokens = facts.kv_block_tokens
        self._max_model_len = facts.max_model_len
        self._caches_prefixes = facts.caches_prefixes
        self._beginnings = RunningPrefixes()
        self._kv_tokens: dict[int, float] = {}
        self._kv_expected = 0.0
        self._fill = fill

    @property
    def capacity(self) -> int:
        """Sequences that the rank may hold altogether."""
        if self.reserves:  # what is held in advance would run in their place
            return self.max_num_seqs - max(0, self._most_reserved - self._online_sequences)
        return self._most_held

    def _with_prefetch(self) -> int:
        if self._prefetch is not None:
            return self.max_num_seqs + self._prefetch
        in_advance = max(MIN_PREFETCH, min(self.max_num_seqs, math.ceil(self._burst)))
        if self._most_in_advance is not None:
            in_advance = min(in_advance, self._most_in_advance)
        return self.max_num_seqs + in_advance

    def bound_prefetch(self, sequences: int | None) -> None:
        """It holds no more than so many beyond those that it runs, if any number is the bound; unless it was told."""
        if sequences != self._most_in_advance:
            self._most_in_advance = sequences
            self._most_held = self._with_prefetch()

    @property
    def is_told_prefetch(self) -> bool:
        """Whether the operator has said how much it holds in advance."""
        return self._prefetch is not None

    @property
    def burst(self) -> float:
        """The most sequences that have lately ended at once."""
        return self._burst

    @property
    def held(self) -> int:
        """Sequences that the rank holds."""
        return self._sequences

    @property
    def free(self) -> int:
        """Sequences that the rank could begin right now."""
        return max(0, self.max_num_seqs - self._sequences)

    def observe_burst(self, sequences: int) -> None:
        """So many sequences have ended at once."""
        self._burst = max(sequences, self._burst * BURST_DECAY)
        self._most_held = self._with_prefetch()
        self.refill.ended(sequences)

    @property
    def may_begin(self) -> bool:
        """Whether a batch may begin an item here now, if it fits. Where both could say, online items come first."""
        return self.refill.is_open if self.reserves else self.wave is None or self.wave.is_open

    @property
    def credit(self) -> int:
        """Sequences that the rank may take right now."""
        return max(0, self.capacity - self._sequences)

    @property
    def is_full(self) -> bool:
        """Whether no item of a batch fits that takes a sequence, however small. Cheap, for all ranks are asked."""
        return self._sequences >= self.capacity and bool(self.running)

    def fits(self, item: Item) -> bool:
        """Whether the rank may take the item now. One that is larger than any credit runs alone, and one that takes no
        sequence needs no room."""
        if not (self.running and item.sequences):
            return True
        if item.flow.is_online and self.has_reserved(item):
            return True
        if item.sequences > self.credit:
            return False
        return not self._kv_cache_tokens or self._runs_in_kv_cache(item)

    def _runs_in_kv_cache(self, item: Item) -> bool:
        """What is held in advance takes room only once it runs, in the place of others: so the part counts, on average,
        that runs at once."""
        at_once = min(1.0, self.max_num_seqs / (self._sequences + item.sequences))
        return (self._kv_expected + self._expected_tokens(item)) * at_once <= self._kv_cache_tokens

    def is_small(self, item: Item) -> bool:
        """Whether there is soon room for the item wherever others end."""
        tokens = self._expected_tokens(item)
        return item.sequences * SMALL <= self.max_num_seqs and tokens * SMALL <= (self._kv_cache_tokens or math.inf)

    def has_reserved(self, item: Item) -> bool:
        """Whether what is kept for online items is enough for this one, too, or is all its own."""
        if not self._most_reserved:
            return False
        taken = self._online_sequences
        return not taken or taken + item.sequences <= self._most_reserved

    def take(self, item: Item) -> None:
        """The item is on its way to the rank."""
        expected = self._expected_tokens(item)
        self.running[item.attempt] = item
        self._kv_tokens[item.attempt] = expected
        self._beginnings.add(item.prompt, item.prefixes)
        self._kv_expected += expected
        self._sequences += item.sequences
        self._online_sequences += item.sequences * item.flow.is_online
        self.outstanding_tokens += item.cost
        if self.reserves and not item.flow.is_online:
            self.refill.begun(item)

    def give_back(self, attempt: int) -> Item | None:
        """The attempt has ended. None when this rank does not hold it."""
        item = self.running.pop(attempt, None)
        if item is not None:
            self._kv_expected -= self._kv_tokens.pop(attempt)
            self._beginnings.remove(item.prefixes)
            self._sequences -= item.sequences
            self._online_sequences -= item.sequences * item.flow.is_online
            self.outstanding_tokens -= item.cost
        return item

    def give_back_all(self) -> list[Item]:
        """All attempts have ended, by the end of the rank."""
        items = list(self.running.values())
        for attempt in list(self.running):
            self.give_back(attempt)
        return items

    def _expected_tokens(self, item: Item) -> float:
        """No sequence outgrows the context, whatever its max_tokens, and each takes whole blocks; what a prompt has in
        common with one that runs takes no room. (When that one ends first, its room is thought free until the last of
        them ends.)"""
        whole = item.sequences * self._kv_block_tokens  # a block of each
        if not whole:
            return 0.0
        tokens = min(self._fill.expected_tokens(item), item.sequences * self._max_model_len)
        shared = self._shared_tokens(item)
        return whole * math.ceil(tokens / whole) - (shared - shared % self._kv_block_tokens)

    def _shared_tokens(self, item: Item) -> float:
        if not (self._caches_prefixes and item.prefixes and item.prompt):
            return 0.0
        return item.prompt_tokens * self._beginnings.bytes_of(item.prompt, item.prefixes) / len(item.prompt)
