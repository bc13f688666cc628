"""An item on its way through the dispatcher: what a rank needs to run it, and what fairness and credit count."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from app.dispatch.prefixes import SHORTEST, prefixes_of
from app.dispatch.queue import ItemQueue
from app.dispatch.turns import Turns
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import Chunk, Outcome, PromptKind, Result, RunItem

if TYPE_CHECKING:
    from app.dispatch.trial import Trial

MOST_LOST_ATTEMPTS = 3  # that an engine gave up and survived: what it will not do, it need not be asked for ever


class ItemState(Enum):
    """Where an item is."""

    WAITING = "waiting"  # in the backlog
    RUNNING = "running"  # on a rank
    DONE = "done"  # it has its one result


class ItemSink(Protocol):
    """Who owns an item and wants to know how it goes."""

    def item_started(self, item: "Item", rank: int) -> None:
        """The item was sent to a rank."""

    def item_lost(self, item: "Item", rank: int) -> None:
        """The rank was lost with it, or gave it up: the item will run again."""

    def item_finished(self, item: "Item", result: Result, rank: int | None) -> None:
        """The item has its result; `rank` is None when none ran it."""


class StreamSink(ItemSink, Protocol):
    """Who passes an item's answer on as it comes."""

    def item_chunk(self, item: "Item", chunk: Chunk) -> None:
        """The next bytes of its answer."""


@dataclass(frozen=True)
class Owner:
    """Who sent a batch, and shares the ranks fairly with others: a tenant, or everybody where there are no API keys."""

    id: str
    weight: int = 1  # gets so many times the tokens of an owner with 1
    max_waiting_items: int | None = None  # None: as many as the backlog takes


EVERYBODY = Owner("")


class Flow:
    """What shares its owner's part fairly: the items of one batch. `deficit` is its account, in tokens."""

    __slots__ = (
        "deficit",
        "has_time_for",
        "is_held_back",
        "is_online",
        "is_open_ended",
        "owner",
        "party",
        "priority",
        "running",
        "suspects",
        "waiting",
    )
    weight = 1

    def __init__(self, priority: int, owner: Owner = EVERYBODY, *, is_online: bool = False) -> None:
        self.is_online = is_online  # somebody waits for its answer: it may use what is kept for such
        self.priority = priority  # lower runs first
        self.owner = owner
        self.party: Party | None = None  # what its waiting items are charged to, once there were any
        self.waiting = ItemQueue()
        self.running: set[Item] = set()
        self.suspects: set[Item] = set()  # its items on trial
        self.is_held_back = False  # passed over, until whoever takes its results has room again
        self.is_open_ended = False  # more comes: it keeps its account while it has nothing waiting
        self.deficit = 0
        self.has_time_for: Callable[[float], bool] = lambda _: True  # so many steps of the ranks, before its deadline

    @property
    def first_cost(self) -> int:
        """Of the item that leaves it next."""
        return self.waiting.first().cost


class Party:
    """An owner's flows of one priority, as long as any has something waiting or is open-ended. `deficit` is their
    account; `flows` are those with something waiting."""

    __slots__ = ("deficit", "flows", "open_ended", "weight")

    def __init__(self, weight: int, quantum_tokens: int) -> None:
        self.weight = weight
        self.deficit = 0
        self.flows: Turns[Flow] = Turns(quantum_tokens)
        self.open_ended = 0  # flows of which more comes, whether they have something waiting or not

    @property
    def is_closed(self) -> bool:
        """Whether nothing waits and nothing more comes: its account is over."""
        return not (self.flows or self.open_ended)

    @property
    def first_cost(self) -> int:
        """Of the item whose turn it is."""
        return self.flows.current().first_cost


class Item:
    """One prompt with everything a rank needs. `cost` is in tokens: what fairness and credit reckon with."""

    __slots__ = (
        "attempt",
        "attempts",
        "cost",
        "flow",
        "has_begun",
        "incarnation",
        "index",
        "kind",
        "lost",
        "max_tokens",
        "params",
        "prefixes",
        "prompt",
        "prompt_tokens",
        "rank",
        "return_token_ids",
        "seed",
        "sequences",
        "sink",
        "state",
        "stream",
        "template_kwargs",
        "tools",
        "trace",
        "trial",
        "truncate",
    )

    def __init__(
        self,
        sink: ItemSink,
        flow: Flow,
        index: int,
        kind: PromptKind,
        prompt: bytes,
        params: bytes,
        *,
        prompt_tokens: int,
        max_tokens: int,
        sequences: int = 1,
        seed: int | None = None,
        truncate: int | None = None,
        return_token_ids: bool = False,
        tools: bytes | None = None,
        template_kwargs: bytes | None = None,
        stream: StreamSink | None = None,
    ) -> None:
        self.sink = sink
        self.stream = stream  # where its answer goes as it comes, if it does
        self.has_begun = False  # whether any of it has: its client cannot be given another one
        self.flow = flow
        self.index = index
        self.kind = kind
        self.prompt = prompt
        self.params = params
        self.prompt_tokens = prompt_tokens  # estimated: the gateway does not tokenise
        self.prefixes = prefixes_of(prompt) if len(prompt) >= SHORTEST else ()
        self.max_tokens = max_tokens  # of each sequence
        self.cost = prompt_tokens + sequences * max_tokens
        self.sequences = sequences
        self.seed = seed
        self.truncate = truncate
        self.return_token_ids = return_token_ids
        self.tools = tools
        self.template_kwargs = template_kwargs
        self.state = ItemState.WAITING
        self.attempts = 0
        self.attempt = 0  # the attempt that runs now; 0 before the first
        self.rank = -1  # where it runs
        self.lost = 0  # attempts that its engine gave up without being asked
        self.trial: Trial | None = None  # it ran when its group crashed, and is not cleared yet
        self.incarnation = 0  # of that rank
        self.trace: str | None = None  # the attempt's context for the rank: whoever owns the item says it

    def lose(self, result: Result) -> Result | None:
        """Counts an attempt that its engine gave up unasked. Returns the item's result if it was the last one."""
        self.lost += 1
        if self.lost < MOST_LOST_ATTEMPTS:
            return None
        if result.error is not None:
            return result
        reason = f"its engine ended {self.lost} attempts, and nobody had asked for it: send the item again"
        return Result(result.attempt, Outcome.ERROR, error=ItemError(ItemErrorCode.ENGINE_ERROR, reason))

    def broken_off(self, result: Result) -> Result:
        """The item's result when its stream has begun and will not be completed."""
        if result.error is not None:
            return Result(result.attempt, Outcome.ERROR, error=result.error)
        reason = "its rank was lost in the midst of the answer: send it again"
        return Result(result.attempt, Outcome.ERROR, error=ItemError(ItemErrorCode.RANK_LOST, reason))

    def message(self, params_index: int) -> RunItem:
        """The item as it goes to a rank."""
        return RunItem(
            self.attempt,
            self.kind,
            self.prompt,
            params_index,
            self.seed,
            self.truncate,
            self.return_token_ids,
            self.tools,
            self.template_kwargs,
            self.trace,
        )

    def release(self) -> None:
        """Forgets the prompt, which may be large: the item is done, its batch may live on."""
        self.prompt = b""
        self.tools = self.template_kwargs = None
