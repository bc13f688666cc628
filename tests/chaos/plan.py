"""What happens in one round, drawn from its seed: the same seed gives the same round."""

import random
from dataclasses import dataclass, field, replace
from enum import StrEnum

from tests.exchanging import CHAT, COMPLETIONS
from tests.service import Json

CRASH, CHOKE, HANG, SLOW = "crashes", "chokes", "hangs", "dawdles"  # words in prompts that bring a fault about
FALTER = "falters"  # crashes in the midst of its stream, and is harmless where it does not stream
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
LINES_SHARE = 0.4  # of batches in the background: files of OpenAI's API
FALTER_TOKENS = 20  # so that it comes to the midst of its stream


@dataclass(frozen=True)
class PlannedBatch:
    """One batch. `hang_up_s`: when its client goes away, or cancels it if it is in the background; None for one that
    waits for the answer. `endpoint`: of OpenAI's API, if it is a file of requests."""

    prompts: list[str]
    max_tokens: int
    delay_s: float
    priority: int = 0
    timeout_s: float | None = None
    hang_up_s: float | None = None
    in_background: bool = False
    endpoint: str | None = None

    @property
    def poisoned(self) -> set[int]:
        """Items that nothing can run."""
        return {index for index, prompt in enumerate(self.prompts) if any(word in prompt for word in POISONS)}


@dataclass(frozen=True)
class PlannedExchange:
    """One request of OpenAI's API. `hang_up_s`: when its client goes away; None for one that waits for the answer."""

    path: str
    prompts: list[str]  # of a chat: one
    max_tokens: int
    delay_s: float
    streams: bool = False
    hang_up_s: float | None = None

    @property
    def is_poisoned(self) -> bool:
        """Whether nothing can run it."""
        words = (*POISONS, FALTER) if self.streams else POISONS
        return any(word in prompt for prompt in self.prompts for word in words)

    @property
    def body(self) -> Json:
        """It asks for all of its tokens."""
        body = body_of(self.path, self.prompts[0] if len(self.prompts) == 1 else self.prompts, self.max_tokens)
        return body | ({"stream": True, "stream_options": {"include_usage": True}} if self.streams else {})


def body_of(path: str, prompt: str | list[str], max_tokens: int) -> Json:
    """A request for so many tokens, and no fewer."""
    asked: Json = {"messages": [{"role": "user", "content": prompt}]} if path == CHAT else {"prompt": prompt}
    return asked | {"max_tokens": max_tokens, "ignore_eos": True}


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
    """Batches, exchanges and blows, all at once. `more_ends` are those of the gateways that follow one that was ended:
    each is hit so long after it listens."""

    number: int
    batches: list[PlannedBatch] = field(default_factory=list)
    blows: list[PlannedBlow] = field(default_factory=list)
    more_ends: list[PlannedBlow] = field(default_factory=list)
    exchanges: list[PlannedExchange] = field(default_factory=list)

    @property
    def has_background(self) -> bool:
        """Whether there is something that outlives its gateway."""
        return any(batch.in_background for batch in self.batches)

    @property
    def has_poison(self) -> bool:
        """Whether there is something that nothing can run."""
        return any(batch.poisoned for batch in self.batches) or any(asked.is_poisoned for asked in self.exchanges)

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
        return self.has_poison or any(blow.what in CRASHING for blow in self.blows)

    @property
    def may_lose_ranks(self) -> bool:
        """Whether what runs may have to run again."""
        return self.has_poison or any(blow.what not in ON_GATEWAY for blow in self.blows)

    @property
    def convicts_surely(self) -> bool:
        """Whether every rank that is lost is lost by a crash, and whoever did it is still known when all is over."""
        return all(blow.what in (*CRASHING, Blow.STOP_GUARDIAN) for blow in self.blows)

    @property
    def may_convict_wrongly(self) -> bool:
        """Whether a blow may hit an innocent suspect just while it is tried alone."""
        crashes = sum(blow.what in CRASHING for blow in self.blows)
        return crashes > 0 and (self.has_poison or crashes > 1)


def draw(seed: int, number: int, ranks: int) -> Round:
    """The round of this number."""
    chance = random.Random(f"{seed}/{number}")
    asked = Round(number, draw_batches(chance, number), exchanges=draw_exchanges(chance, number))
    if asked.has_poison:
        blows = [draw_blow(chance, ranks, ON_RANKS) for _ in range(chance.choice((0, 0, 0, 1)))]
    else:
        blows = [draw_blow(chance, ranks, ON_RANKS) for _ in range(chance.choice((0, 1, 1, 2, 3)))]
    if chance.random() < 0.08:
        blows.append(draw_blow(chance, ranks, ON_GATEWAY))
    return with_background(chance, replace(asked, blows=blows), ranks)


def with_background(chance: random.Random, round_: Round, ranks: int) -> Round:
    """In some rounds most batches are in the background; their gateway is often ended then, and the next ones, too."""
    if chance.random() >= BACKGROUND_SHARE:
        return round_
    first = chance.randrange(len(round_.batches))
    batches = [
        _in_background(chance, batch) if index == first or chance.random() < 0.7 else batch
        for index, batch in enumerate(round_.batches)
    ]
    blows = list(round_.blows)
    if not round_.ends_gateway and chance.random() < 0.7:
        blows.append(replace(draw_blow(chance, ranks, ON_GATEWAY), what=chance.choice(ENDS)))
    after = chance.choice((0, 0, 1, 1, 2)) if any(blow.what in ON_GATEWAY for blow in blows) else 0
    more = [PlannedBlow(chance.choice(ENDS), 0, chance.uniform(0, LONGEST_LIFE_S)) for _ in range(after)]
    return replace(round_, batches=batches, blows=blows, more_ends=more)


def _in_background(chance: random.Random, batch: PlannedBatch) -> PlannedBatch:
    """It is larger, so that more than one gateway has to do with it."""
    endpoint = chance.choice((COMPLETIONS, CHAT)) if chance.random() < LINES_SHARE else None
    first = len(batch.prompts)
    more = [f"{batch.prompts[0].partition(' item ')[0]} item {item}" for item in range(first, TIMES_LARGER * first)]
    return replace(batch, prompts=batch.prompts + more, in_background=True, endpoint=endpoint)


def draw_batches(chance: random.Random, number: int) -> list[PlannedBatch]:
    """Those of the round of this number."""
    return [_batch(chance, number, index) for index in range(chance.randint(1, 4))]


def draw_exchanges(chance: random.Random, number: int) -> list[PlannedExchange]:
    """Those of the round of this number."""
    return [_exchange(chance, f"round {number} exchange {index}") for index in range(chance.choice((0, 1, 2, 4, 8)))]


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


def _exchange(chance: random.Random, name: str) -> PlannedExchange:
    path, streams = chance.choice((COMPLETIONS, CHAT)), chance.random() < 0.7
    prompts = [f"{name} prompt {index}" for index in range(1 if path == CHAT else chance.choice((1, 1, 1, 2, 5)))]
    max_tokens = chance.choice((1, 4, 16, 60))
    if chance.random() < 0.08:
        word = FALTER if streams and chance.random() < 0.6 else chance.choice(OFTEN)
        prompts[chance.randrange(len(prompts))] += f" {word}"
        max_tokens = max(max_tokens, FALTER_TOKENS)
    elif chance.random() < 0.05:
        prompts[0] += f" {SLOW}"
    hang_up_s = chance.uniform(0, 0.5) if chance.random() < 0.15 else None
    return PlannedExchange(path, prompts, max_tokens, chance.uniform(0, 0.6), streams, hang_up_s)
