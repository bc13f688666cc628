"""Whatever happens, in whatever order: one result per item, none lost, and no rank over its credit."""

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

from dispatch_bench import LARGE, Bench, aborted, make_items, ok
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.dispatch.item import Flow, Item, ItemState, Owner
from app.dispatch.placement import Dispatch
from app.ranks.events import LossKind
from engines.contract.protocol import Outcome, Result

MAX_NUM_SEQS = 4
KV_CACHE_TOKENS = 200
MEMBERS = {0: (0, 1), 1: (2,)}  # a lock-step group and a replica, of the ranks 0 to 2
GROUPS = st.sampled_from(sorted(MEMBERS))
OWNERS = st.sampled_from([Owner("light"), Owner("heavy", weight=3)])


class Life(RuleBasedStateMachine):
    """Clients that submit and cancel, ranks that come, answer and go."""

    dispatch: ClassVar = Dispatch.ROUND_ROBIN
    prompts: ClassVar = (b'"Hello"',)
    in_turns: ClassVar = False  # whether several things may happen before the dispatcher sends what follows from them

    def __init__(self) -> None:
        super().__init__()
        self.due: list[Callable[[], None]] = []
        soon: dict[str, Any] = {"soon": self.due.append} if self.in_turns else {}
        self.bench = Bench(prefetch=1, dispatch=self.dispatch, quantum=50, **soon)
        self.ready: set[int] = set()  # groups
        self.on_hold: set[int] = set()
        self.items: dict[Flow, list[Item]] = {}  # of batches that nobody has cancelled
        self.cancelled: set[Item] = set()

    @rule(
        count=st.integers(1, 12),
        priority=st.integers(-1, 1),
        n=st.integers(1, 7),
        max_tokens=st.integers(1, 90),
        owner=OWNERS,
    )
    def submit(self, count: int, priority: int, n: int, max_tokens: int, owner: Owner) -> None:
        flow = Flow(priority, owner)
        self.items[flow] = make_items(
            count, flow, owner=self.bench.owner, n=n, max_tokens=max_tokens, prompts=self.prompts
        )
        self.bench.dispatcher.submit(flow, self.items[flow])

    @rule(priority=st.integers(-1, 1), owner=OWNERS)
    def open(self, priority: int, owner: Owner) -> None:
        """A batch that comes in windows."""
        flow = Flow(priority, owner)
        self.items[flow] = []
        self.bench.dispatcher.backlog.open(flow)

    @precondition(lambda self: self.open_ended)
    @rule(data=st.data(), count=st.integers(0, 6), max_tokens=st.integers(1, 90))
    def submit_window(self, data: st.DataObject, count: int, max_tokens: int) -> None:
        flow = data.draw(st.sampled_from(self.open_ended))
        window = make_items(count, flow, owner=self.bench.owner, max_tokens=max_tokens, prompts=self.prompts)
        self.items[flow] += window
        self.bench.dispatcher.submit(flow, window)

    @precondition(lambda self: self.open_ended)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        self.bench.dispatcher.backlog.close(data.draw(st.sampled_from(self.open_ended)))

    @property
    def open_ended(self) -> list[Flow]:
        return [flow for flow in self.items if flow.is_open_ended]

    @precondition(lambda self: self.items)
    @rule(data=st.data(), is_held=st.booleans())
    def hold_and_release(self, data: st.DataObject, is_held: bool) -> None:
        flow = data.draw(st.sampled_from(list(self.items)))
        (self.bench.dispatcher.hold_back if is_held else self.bench.dispatcher.let_go)(flow)

    @precondition(lambda self: self.items)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        flow = data.draw(st.sampled_from(list(self.items)))
        self.cancelled |= {item for item in self.items.pop(flow) if item not in self.bench.owner.results}
        self.bench.dispatcher.cancel(flow)

    @rule(group=GROUPS)
    def group_ready(self, group: int) -> None:
        if group in self.ready:
            return
        self.ready.add(group)
        self.bench.ready(*MEMBERS[group], group=group, max_num_seqs=MAX_NUM_SEQS, kv_cache_tokens=KV_CACHE_TOKENS)

    @rule(group=GROUPS, kind=st.sampled_from(LossKind), data=st.data())
    def group_lost(self, group: int, kind: LossKind, data: st.DataObject) -> None:
        held = [attempt for rank in MEMBERS[group] for attempt in self.bench.held.get(rank, ())]
        untouched = data.draw(st.lists(st.sampled_from(held), unique=True)) if held else []
        self.ready.discard(group)
        self.on_hold.discard(group)
        before = set(self.bench.owner.results)
        convicted = self.bench.dispatcher.convicted
        self.bench.lose(group, *MEMBERS[group], kind=kind, untouched=untouched)
        new = set(self.bench.owner.results) - before
        assert len(new) == self.bench.dispatcher.convicted - convicted <= 1
        assert not new or kind in (LossKind.DIED, LossKind.STALLED)

    @precondition(lambda self: self.ready)
    @rule(data=st.data())
    def group_draining(self, data: st.DataObject) -> None:
        group = data.draw(st.sampled_from(sorted(self.ready)))
        self.on_hold.add(group)
        self.bench.dispatcher.group_draining(group)

    @rule(group=GROUPS)
    def group_given_up(self, group: int) -> None:
        if group not in self.ready:
            self.bench.dispatcher.group_given_up(group)

    @precondition(lambda self: any(self.bench.held.values()))
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        rank = data.draw(st.sampled_from([rank for rank, held in self.bench.held.items() if held]))
        held = list(self.bench.held[rank])
        attempts = data.draw(st.lists(st.sampled_from(held), min_size=1, unique=True))
        unwanted = set(self.bench.aborts(rank))
        lost = data.draw(st.sampled_from((False, False, True)))

        def result(attempt: int) -> Result:
            if attempt in unwanted:
                return aborted(attempt)
            return Result(attempt, Outcome.LOST) if lost else ok(attempt)

        self.bench.answer(rank, *attempts, make=result)

    @precondition(lambda self: self.ready)
    @rule(data=st.data(), attempt=st.integers(1, 60))
    def late_or_invented_result(self, data: st.DataObject, attempt: int) -> None:
        rank = data.draw(st.sampled_from(MEMBERS[min(self.ready)]))
        self.bench.dispatcher.results(rank, self.bench.lives[rank] - 1, [ok(attempt)])
        self.bench.dispatcher.results(rank, self.bench.lives[rank], [ok(attempt + LARGE)])

    @precondition(lambda self: self.due)
    @rule()
    def turn(self) -> None:
        while self.due:
            self.due.pop(0)()

    @invariant()
    def no_rank_holds_more_than_its_credit(self) -> None:
        running = {item.attempt: item for item, _ in self.bench.owner.started}
        for held in self.bench.held.values():
            sequences = sum(running[attempt].sequences for attempt in held)
            assert len(held) <= 1 or sequences <= MAX_NUM_SEQS + 1

    @invariant()
    def every_item_is_in_one_place(self) -> None:
        waiting = [item for flow in self.items for item in flow.waiting]
        suspects = [item for items in self.items.values() for item in items if item.trial is not None]
        on_trial = [item for item in suspects if item.state is ItemState.WAITING]
        kept_for = list(self.bench.dispatcher.reservations)
        running = [item for flow in self.items for item in flow.running]
        done = self.bench.owner.results
        for items in self.items.values():
            for item in items:
                assert (item in waiting) + (item in on_trial) + (item in kept_for) + (item in running) + (
                    item in done
                ) == 1
        assert not self.cancelled & set(done)
        assert self.bench.dispatcher.backlog.items == len(waiting) + len(on_trial) + len(kept_for)
        owned = Counter(item.flow.owner for item in (*waiting, *on_trial, *kept_for))
        assert all(self.bench.dispatcher.backlog.waiting_of(owner).items == owned[owner] for owner in owned)
        assert self.bench.dispatcher.backlog.owners == len(owned)

    @invariant()
    def a_free_group_with_nothing_to_do_means_that_nothing_waits(self) -> None:
        for group in self.ready - self.on_hold if not self.due else ():
            idle = not any(self.bench.held[rank] for rank in MEMBERS[group])
            waiting = sum(len(flow.waiting) for flow in self.items if not flow.is_held_back)
            assert not (idle and waiting)
            assert not (idle and self.bench.dispatcher.suspects(group)), "a trial is stranded"

    def teardown(self) -> None:
        """The groups that are there in the end answer, and then all is done."""
        for flow in self.items:
            self.bench.dispatcher.let_go(flow)
        for group in (0, 1):
            if group in self.on_hold:  # a restart, as an operator would
                self.group_lost_by_hand(group)
            self.group_ready(group)
        self.turn()
        while any(self.bench.held.values()):
            for rank, held in self.bench.held.items():
                if held:
                    self.bench.answer(rank)
                    self.turn()
        for items in self.items.values():
            assert all(item in self.bench.owner.results for item in items)
        assert self.bench.dispatcher.outstanding_tokens == 0
        for flow in self.open_ended:
            self.bench.dispatcher.backlog.close(flow)
        assert not self.bench.dispatcher.backlog._levels, "an account is left open"
        for rank in (0, 1, 2):
            assert self.bench.dispatcher.credit(rank) == MAX_NUM_SEQS + 1

    def group_lost_by_hand(self, group: int) -> None:
        self.ready.discard(group)
        self.on_hold.discard(group)
        self.bench.lose(group, *MEMBERS[group], kind=LossKind.ENDED)


class LifeLeastLoaded(Life):
    """The same with the other placement."""

    dispatch: ClassVar = Dispatch.LEAST_LOADED


class LifeByPrefix(Life):
    """The same with prompts that begin alike, and are to meet on one rank."""

    dispatch: ClassVar = Dispatch.PREFIX
    prompts: ClassVar = tuple(beginning * 1100 + end for beginning in (b"a", b"b", b"c") for end in (b"", b"x" * 4000))


class LifeInTurns(Life):
    """The same in a real event loop's manner."""

    in_turns: ClassVar = True


EXTENT = settings(max_examples=40, stateful_step_count=30)
TestLife = Life.TestCase
TestLife.settings = EXTENT
TestLifeLeastLoaded = LifeLeastLoaded.TestCase
TestLifeLeastLoaded.settings = EXTENT
TestLifeByPrefix = LifeByPrefix.TestCase
TestLifeByPrefix.settings = EXTENT
TestLifeInTurns = LifeInTurns.TestCase
TestLifeInTurns.settings = EXTENT
