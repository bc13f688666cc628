"""What happens in one round, drawn from its seed: the same seed gives the same round."""

import random
from dataclasses import dataclass, field, replace
from enum import StrEnum

CRASH, CHOKE, HANG, SLOW = "crashes", "chokes", "hangs", "dawdles"  # words in prompts that bring a fault about
POISONS = (CRASH, CHOKE, HANG)
OFTEN = (CRASH, CRASH, CHOKE, CHOKE, HANG)  # a hang takes its time to be found


class Blow(StrEnum):
    """What is done to the service from outside."""

    KILL_RANK = "kill_rank"
    KILL_GUARDIAN = "kill_guardian"
    STOP_RANK = "stop_rank"  # SIGSTOP
    STOP_GUARDIAN = "stop_guardian"  # and SIGCONT a moment later
    RESTART = "restart"  # by an operator
    TERM_GATEWAY = "term_gateway"
    KILL_GATEWAY = "kill_gateway"
    CUT_LINK = "cut_link"  # of a node, mended after a while
    KILL_AGENT = "kill_agent"  # and started again after a while, as by systemd
    TERM_AGENT = "term_agent"  # the same
    STOP_AGENT = "stop_agent"  # SIGSTOP, and SIGCONT after a while


ON_RANKS = (Blow.KILL_RANK, Blow.KILL_RANK, Blow.KILL_GUARDIAN, Blow.STOP_RANK, Blow.STOP_GUARDIAN, Blow.RESTART)
ON_GATEWAY = (Blow.TERM_GATEWAY, Blow.TERM_GATEWAY, Blow.KILL_GATEWAY)
ENDS = (Blow.TERM_GATEWAY, Blow.KILL_GATEWAY)
BACKGROUND_SHARE = 0.4
TIMES_LARGER = 4  # than others
LONGEST_LIFE_S = 1.5  # of a gateway that is ended while it goes on with batches in the background
CRASHING = (Blow.KILL_RANK, Blow.KILL_GUARDIAN, Blow.STOP_RANK)


@dataclass(frozen=True)
class PlannedBatch:
    """One request. `hang_up_s`: when its client goes away, or cancels it if it is in the background; None for one that
    waits for the answer."""

    prompts: list[str]
    max_tokens: int
    delay_s: float
    priority: int = 0
    timeout_s: float | None = None
    hang_up_s: float | None = None
    in_background: bool = False

    @property
    def poisoned(self) -> set[int]:
        """Items that nothing can run."""
        return {index for index, prompt in enumerate(self.prompts) if any(word in prompt for word in POISONS)}


@dataclass(frozen=True)
class PlannedBlow:
    """What is done, to which rank or node, and when. `ways`: in which directions a link is cut."""

    what: Blow
    rank: int
    delay_s: float
    node: int = 0
    lasts_s: float = 0.0
    ways: tuple[str, ...] = ()


@dataclass(frozen=True)
class Round:
    """Batches and blows, all at once. `more_ends` are those of the gateways that follow one that was ended: each is hit
    so long after it listens."""

    number: int
    batches: list[PlannedBatch] = field(default_factory=list)
    blows: list[PlannedBlow] = field(default_factory=list)
    more_ends: list[PlannedBlow] = field(default_factory=list)

    @property
    def ends_gateway(self) -> bool:
        """Whether the gateway does not survive it."""
        return any(blow.what in ON_GATEWAY for blow in self.blows)

    @property
    def kills_gateway(self) -> bool:
        """Whether what was accepted is lost."""
        return any(blow.what is Blow.KILL_GATEWAY for blow in self.blows)

    @property
    def may_raise_suspicion(self) -> bool:
        """Whether a rank may be lost in a way that an item can be blamed for."""
        return any(batch.poisoned for batch in self.batches) or any(blow.what in CRASHING for blow in self.blows)

    @property
    def may_convict_wrongly(self) -> bool:
        """Whether a blow may hit an innocent suspect just while it is tried alone."""
        has_poison = any(batch.poisoned for batch in self.batches)
        crashes = sum(blow.what in CRASHING for blow in self.blows)
        return crashes > 0 and (has_poison or crashes > 1)


def draw(seed: int, number: int, ranks: int) -> Round:
    """The round of this number."""
    chance = random.Random(f"{seed}/{number}")
    batches = draw_batches(chance, number)
    if any(batch.poisoned for batch in batches):
        blows = [draw_blow(chance, ranks, ON_RANKS) for _ in range(chance.choice((0, 0, 0, 1)))]
    else:
        blows = [draw_blow(chance, ranks, ON_RANKS) for _ in range(chance.choice((0, 1, 1, 2, 3)))]
    if chance.random() < 0.08:
        blows.append(draw_blow(chance, ranks, ON_GATEWAY))
    return with_background(chance, Round(number, batches, blows), ranks)


def with_background(chance: random.Random, round_: Round, ranks: int) -> Round:
    """In some rounds most batches are in the background; their gateway is often ended then, and the next ones, too."""
    if chance.random() >= BACKGROUND_SHARE:
        return round_
    first = chance.randrange(len(round_.batches))
    batches = [
        _in_background(batch) if index == first or chance.random() < 0.7 else batch
        for index, batch in enumerate(round_.batches)
    ]
    blows = list(round_.blows)
    if not round_.ends_gateway and chance.random() < 0.7:
        blows.append(replace(draw_blow(chance, ranks, ON_GATEWAY), what=chance.choice(ENDS)))
    after = chance.choice((0, 0, 1, 1, 2)) if any(blow.what in ON_GATEWAY for blow in blows) else 0
    more = [PlannedBlow(chance.choice(ENDS), 0, chance.uniform(0, LONGEST_LIFE_S)) for _ in range(after)]
    return replace(round_, batches=batches, blows=blows, more_ends=more)


def _in_background(batch: PlannedBatch) -> PlannedBatch:
    """It is larger, so that more than one gateway has to do with it."""
    first = len(batch.prompts)
    more = [f"{batch.prompts[0].partition(' item ')[0]} item {item}" for item in range(first, TIMES_LARGER * first)]
    return replace(batch, prompts=batch.prompts + more, in_background=True)


def draw_batches(chance: random.Random, number: int) -> list[PlannedBatch]:
    """Those of the round of this number."""
    return [_batch(chance, number, index) for index in range(chance.randint(1, 4))]


def draw_blow(chance: random.Random, ranks: int, kinds: tuple[Blow, ...]) -> PlannedBlow:
    """One of these kinds."""
    return PlannedBlow(chance.choice(kinds), chance.randrange(ranks), chance.uniform(0, 0.6))


def _batch(chance: random.Random, number: int, index: int) -> PlannedBatch:
    count = chance.choice((1, 2, 5, 20, 60, 120))
    prompts = [f"round {number} batch {index} item {item}" for item in range(count)]
    if chance.random() < 0.2:
        for item in chance.sample(range(count), min(count, chance.choice((1, 1, 2)))):
            prompts[item] += f" {chance.choice(OFTEN)}"
    well = [item for item, prompt in enumerate(prompts) if not any(word in prompt for word in POISONS)]
    if well and chance.random() < 0.1:
        prompts[chance.choice(well)] += f" {SLOW}"
    return PlannedBatch(
        prompts,
        max_tokens=chance.choice((1, 4, 16, 60)),
        delay_s=chance.uniform(0, 0.3),
        priority=chance.choice((0, 0, -1, 1)),
        timeout_s=chance.uniform(0.3, 3) if chance.random() < 0.1 else None,
        hang_up_s=chance.uniform(0, 0.5) if chance.random() < 0.15 else None,
    )
