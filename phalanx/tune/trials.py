"""Candidates, and what was measured of them."""

from statistics import mean, median

import msgspec

ROUNDS = 3  # of each start that count


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A way to serve. What is None is left to the service."""

    expert_parallel: bool | None = None
    ranks_per_gpu: int | None = None
    sequences: int | None = None  # that a rank runs at once
    graph_tokens: int | None = None  # of the largest step that a GPU has a graph for
    step_tokens: int | None = None  # of one step of a rank
    tiles: bool = False  # fused-MoE tiles of our own

    @property
    def changes(self) -> int:
        """How many things are not as the service chooses."""
        numbers = (self.expert_parallel, self.ranks_per_gpu, self.sequences, self.graph_tokens, self.step_tokens)
        return sum(number is not None for number in numbers) + self.tiles

    @property
    def words(self) -> str:
        """It, for people."""
        parts = [
            "replicas" if self.expert_parallel is False else "",
            f"{self.ranks_per_gpu} ranks a GPU" if self.ranks_per_gpu else "",
            f"{self.sequences} sequences" if self.sequences else "",
            f"graphs to {self.graph_tokens} tokens" if self.graph_tokens else "",
            f"{self.step_tokens} step tokens" if self.step_tokens else "",
            "tiles" if self.tiles else "",
        ]
        return ", ".join(filter(None, parts)) or "baseline"


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One round of the workload. Times are seconds."""

    seconds: float
    output_tokens: int

    @property
    def tokens_per_s(self) -> float:
        """Output tokens of all ranks."""
        return self.output_tokens / self.seconds


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the ranks say of themselves."""

    ranks: int
    group_kind: str
    expert_parallel: bool = False
    ranks_per_gpu: int | None = None  # None: they have none
    sequences: int  # of each rank
    step_tokens: int | None  # of each rank
    graph_tokens: int | None = None  # of each rank; None: it has no graphs
    missing_tiles: list[str] = []  # files of fused-MoE tiles that vLLM looks for in vain


class Trial(msgspec.Struct, kw_only=True):
    """What was measured of one candidate, in one start or more."""

    candidate: Candidate
    facts: Facts | None = None  # None: it never stood
    start_s: list[float] = []  # until all ranks were ready
    rounds: list[Round] = []  # those that warm up are not among them
    tails_s: list[float] = []  # of each batch, from the first rank running dry to the end
    memory_bytes: int | None = None  # of all ranks, after the rounds
    took_s: list[float] = []  # of each start, from its beginning until nothing was left
    failure: str | None = None  # why it cannot be used

    @property
    def is_usable(self) -> bool:
        """Whether there are figures."""
        return self.failure is None and bool(self.rounds)

    @property
    def rates(self) -> list[float]:
        """Output tokens a second of each round."""
        return [one.tokens_per_s for one in self.rounds]

    @property
    def tokens_per_s(self) -> float:
        """The median."""
        return median(self.rates)

    @property
    def spread(self) -> float:
        """Half the distance between the fastest round and the slowest, as a share of the median."""
        return (max(self.rates) - min(self.rates)) / 2 / self.tokens_per_s

    @property
    def tail_s(self) -> float:
        """The median."""
        return median(self.tails_s)

    @property
    def rounds_s(self) -> float:
        """All of them together."""
        return sum(one.seconds for one in self.rounds)

    @property
    def mean_start_s(self) -> float:
        """Of all starts."""
        return mean(self.start_s)

    def first(self, rounds: int) -> "Trial":
        """The same as it was after so many rounds."""
        return msgspec.structs.replace(self, rounds=self.rounds[:rounds])

    def add(self, other: "Trial") -> None:
        """Another start of the same candidate."""
        self.start_s += other.start_s
        self.rounds += other.rounds
        self.tails_s += other.tails_s
        self.took_s += other.took_s
        self.failure = other.failure


def is_clearly_faster(trial: Trial, other: Trial) -> bool:
    """Whether noise does not explain it: in each place of a start, all its rounds beat the other's median there, and
    its median all rounds of the other.

    Only the same places are compared: where lengths differ, the first round of a batch has other answers than the last,
    for all candidates alike.
    """
    if not (trial.is_usable and other.is_usable):
        return False
    places = range(min(len(trial.rates), len(other.rates), ROUNDS))
    return all(_beats(trial.rates[place::ROUNDS], other.rates[place::ROUNDS]) for place in places)


def _beats(rates: list[float], others: list[float]) -> bool:
    return median(rates) > max(others) and min(rates) > median(others)
