"""Items, their owner and ranks that are played, for the tests of the dispatcher beside this file."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from app.dispatch.backlog import Backlog
from app.dispatch.dispatcher import Dispatcher
from app.dispatch.item import Flow, Item
from app.dispatch.placement import Dispatch, placement
from app.ranks.events import Aftermath, Loss, LossKind, Member
from engines.contract.protocol import Abort, Outcome, PromptKind, RankFacts, Result, Run

PARAMS, PROMPT = b"params", b'"Hello"'
LARGE = 10**9


class Owner:
    """An ItemSink that keeps what it hears, and does not accept a second result."""

    def __init__(self) -> None:
        self.started: list[tuple[Item, int]] = []
        self.lost: list[tuple[Item, int]] = []
        self.results: dict[Item, Result] = {}
        self.ranks: dict[Item, int | None] = {}

    def item_started(self, item: Item, rank: int) -> None:
        self.started.append((item, rank))

    def item_lost(self, item: Item, rank: int) -> None:
        assert item not in self.results, f"item {item.index} is lost and has a result"
        self.lost.append((item, rank))

    def item_finished(self, item: Item, result: Result, rank: int | None) -> None:
        assert item not in self.results, f"item {item.index} got two results"
        self.results[item] = result
        self.ranks[item] = rank

    def forget(self) -> None:
        self.started.clear()
        self.lost.clear()
        self.results.clear()
        self.ranks.clear()


def make_item(
    flow: Flow,
    *,
    owner: Owner | None = None,
    index: int = 0,
    prompt_tokens: int = 0,
    max_tokens: int = 10,
    n: int = 1,
    params: bytes = PARAMS,
    prompt: bytes = PROMPT,
) -> Item:
    return Item(
        owner or Owner(),
        flow,
        index,
        PromptKind.TEXT,
        prompt,
        params,
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        sequences=n,
    )


def make_items(count: int, flow: Flow, prompts: Sequence[bytes] = (PROMPT,), **fields: Any) -> list[Item]:
    return [make_item(flow, index=index, prompt=prompts[index % len(prompts)], **fields) for index in range(count)]


def facts(
    max_num_seqs: int = 4,
    kv_cache_tokens: int = 0,
    max_model_len: int = LARGE,
    caches_prefixes: bool = False,
    device: str = "cpu",
    kv_block_tokens: int = 1,
) -> RankFacts:
    return RankFacts(
        engine="played",
        model="played",
        is_moe=False,
        expert_parallel=False,
        data_parallel_size=1,
        tensor_parallel_size=1,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        kv_cache_tokens=kv_cache_tokens,
        vocab_size=100,
        dtype="none",
        device=device,
        caches_prefixes=caches_prefixes,
        kv_block_tokens=kv_block_tokens,
    )


class Bench:
    """A dispatcher, and what it sent to ranks that hold what they got until a test lets them answer.

    Each rank is a group of its own, unless a test makes a group of several.
    """

    def __init__(
        self,
        ranks: int = 0,
        *,
        prefetch: int | None = 0,
        dispatch: Dispatch = Dispatch.ROUND_ROBIN,
        quantum: int = 100,
        soon: Callable[[Callable[[], None]], object] = lambda act: act(),
        online_share: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        waves: bool = True,
    ) -> None:
        self.sent: list[tuple[int, Run | Abort]] = []
        self.held: dict[int, dict[int, int]] = {}  # rank -> attempt -> the incarnation it was sent to
        self.lives: dict[int, int] = {}
        self.owner = Owner()
        self.completed_tokens = 0  # the cost of what ranks have answered
        self.due: list[tuple[float, Callable[[], None]]] = []  # seconds, and what is to be done after them
        self.dispatcher = Dispatcher(
            self._send, placement(dispatch), quantum, prefetch, self._later, soon, self, online_share, clock, waves
        )
        for rank in range(ranks):
            self.ready(rank)

    def _send(self, rank: int, message: Run | Abort) -> None:
        assert message.incarnation == self.lives[rank], "a message for another life of the rank"
        self.sent.append((rank, msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Run | Abort)))
        if isinstance(message, Run):
            self.held[rank] |= {item.attempt: message.incarnation for item in message.items}

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        self.due.append((seconds, act))

    def results_taken(self, rank: int, results: list[Result], completed_tokens: int) -> None:
        self.completed_tokens += completed_tokens

    def group_lost(self, loss: Loss) -> None:
        pass

    def ready(self, *ranks: int, group: int | None = None, takes_items: bool = True, **of_facts: Any) -> None:
        for rank in ranks:
            self.lives[rank] = self.lives.get(rank, 0) + 1
            self.held[rank] = {}
        members = [Member(rank, self.lives[rank], facts(**of_facts)) for rank in ranks]
        self.dispatcher.group_ready(ranks[0] if group is None else group, members, takes_items=takes_items)

    def lose(
        self,
        group: int,
        *ranks: int,
        kind: LossKind = LossKind.DIED,
        reason: str = "it was struck by lightning",
        untouched: Iterable[int] = (),
    ) -> Aftermath:
        """The group is gone, and its ranks with it."""
        for rank in ranks or (group,):
            self.held[rank] = {}
        return self.dispatcher.group_lost(group, Loss(kind, reason, group, frozenset(untouched)))

    def submit(self, count: int, *, priority: int = 0, **fields: Any) -> Flow:
        flow = Flow(priority)
        self.dispatcher.submit(flow, make_items(count, flow, owner=self.owner, **fields))
        return flow

    def runs(self, rank: int) -> list[Run]:
        return [message for to, message in self.sent if to == rank and isinstance(message, Run)]

    def aborts(self, rank: int) -> list[int]:
        aborts = [message for to, message in self.sent if to == rank and isinstance(message, Abort)]
        return [attempt for message in aborts for attempt in message.attempts]

    def answer(self, rank: int, *attempts: int, make: Callable[[int], Result] | None = None) -> None:
        """The rank's results of these attempts, or of all that it holds."""
        ended = list(attempts) or list(self.held[rank])
        for attempt in ended:
            self.held[rank].pop(attempt, None)
        self.dispatcher.results(rank, self.lives[rank], [(make or ok)(attempt) for attempt in ended])


class Clock:
    """Time as a test has it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def turn(bench: Bench, clock: Clock) -> None:
    """Until what is due later has been done."""
    due, bench.due = bench.due, []
    clock.now += max((seconds for seconds, _ in due), default=0)
    for _, act in due:
        act()


def ok(attempt: int) -> Result:
    return Result(attempt, Outcome.OK, prompt_tokens=0, completion_tokens=10)


def aborted(attempt: int) -> Result:
    return Result(attempt, Outcome.ABORTED)


def head_of(backlog: Backlog) -> Item | None:
    """Whose turn it is, whatever the rank."""
    flow = backlog.current()
    return None if flow is None else flow.waiting.first()


def finish(bench: Bench) -> None:
    """All ranks answer until nothing is left."""
    while any(bench.held.values()):
        for rank, held in bench.held.items():
            if held:
                bench.answer(rank)


def assert_idle(bench: Bench, max_num_seqs: int = 4) -> None:
    """Nothing waits, nothing runs, and every rank has all its credit."""
    dispatcher = bench.dispatcher
    assert (dispatcher.backlog.items, dispatcher.backlog.tokens, head_of(dispatcher.backlog)) == (0, 0, None)
    assert (dispatcher.running_items, dispatcher.outstanding_tokens) == (0, 0)
    for rank, held in bench.held.items():
        if dispatcher.held(rank) or dispatcher.credit(rank):
            assert not held
            assert dispatcher.credit(rank) in (max_num_seqs, 256)
