"""What the dispatcher does with many items costs so much per item, however many there are: the event loop waits."""

import gc
import itertools
import time
from collections.abc import Callable

import pytest
from dispatch_bench import Bench

from app.dispatch.credit import RankCredit
from app.dispatch.item import Flow, Item
from app.dispatch.placement import Dispatch
from app.ranks.events import LossKind

FEW, MANY = 256, 2048
MOST_GROWTH = 2.5 * MANY / FEW  # in proportion it is half of that; where each looks at all others, far more

Begin = Callable[[int], Callable[[], object]]  # prepares so many items; what it returns is measured


def on_trial(bench: Bench, count: int, batches: int = 1) -> list[Flow]:
    """So many items of so many batches have crashed their group and run there again."""
    bench.ready(0, 1, max_num_seqs=count)
    flows = [bench.submit(count // batches) for _ in range(batches)]
    bench.lose(0, 0, 1)
    bench.ready(0, 1, max_num_seqs=count)
    return flows


def first_crash(count: int) -> Callable[[], object]:
    bench = Bench()
    bench.ready(0, 1, max_num_seqs=count)
    bench.submit(count)
    return lambda: bench.lose(0, 0, 1)


def crash_on_trial(count: int) -> Callable[[], object]:
    bench = Bench()
    on_trial(bench, count)
    return lambda: bench.lose(0, 0, 1)


def restart_on_trial(count: int) -> Callable[[], object]:
    bench = Bench()
    on_trial(bench, count)
    return lambda: bench.lose(0, 0, 1, kind=LossKind.ENDED)


def crash_of_suspects_that_nobody_wants(count: int) -> Callable[[], object]:
    bench = Bench()
    for flow in on_trial(bench, count, batches=2)[:1]:
        bench.dispatcher.cancel(flow)
    return lambda: bench.lose(0, 0, 1)


def cancelling_batches_on_trial(count: int) -> Callable[[], object]:
    bench = Bench()
    flows = on_trial(bench, count, batches=count)
    bench.lose(0, 0, 1)
    return lambda: [bench.dispatcher.cancel(flow) for flow in reversed(flows)]


def cancelling_batches_in_the_backlog(count: int) -> Callable[[], object]:
    bench = Bench()
    flows = [bench.submit(1) for _ in range(count)]
    return lambda: [bench.dispatcher.cancel(flow) for flow in reversed(flows)]


def batches_of_many_priorities(count: int) -> Callable[[], object]:
    bench = Bench()

    def come_and_go() -> None:
        flows = [bench.submit(1, priority=-number) for number in range(count)]
        for flow in flows:
            bench.dispatcher.cancel(flow)

    return come_and_go


def trial_to_its_end(count: int) -> Callable[[], object]:
    bench = Bench()
    on_trial(bench, count)

    def end() -> None:
        for rank in (0, 1):
            bench.answer(rank)

    return end


def cost_s(begin: Begin, count: int) -> float:
    """CPU time, at its best."""
    best = float("inf")
    for _ in range(2):
        act = begin(count)
        gc.collect()
        gc.disable()
        try:
            began = time.thread_time()
            act()
            best = min(best, time.thread_time() - began)
        finally:
            gc.enable()
    return best


@pytest.mark.parametrize(
    "begin",
    [
        first_crash,
        crash_on_trial,
        restart_on_trial,
        crash_of_suspects_that_nobody_wants,
        cancelling_batches_on_trial,
        cancelling_batches_in_the_backlog,
        batches_of_many_priorities,
        trial_to_its_end,
    ],
)
def test_the_cost_grows_with_the_items_and_no_faster(begin: Begin) -> None:
    assert cost_s(begin, MANY) / cost_s(begin, FEW) < MOST_GROWTH


@pytest.mark.parametrize("dispatch", Dispatch)
def test_an_item_is_not_held_against_every_rank(dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64, all of which are full but for what has just ended on one."""
    asked = 0
    fits = RankCredit.fits

    def counted(rank: RankCredit, item: Item) -> bool:
        nonlocal asked
        asked += 1
        return fits(rank, item)

    monkeypatch.setattr(RankCredit, "fits", counted)
    bench = Bench(64, dispatch=dispatch)
    bench.submit(1000)
    for rank in range(64):
        bench.answer(rank)
    assert len(bench.owner.started) == 2 * 64 * 4
    assert asked < 2 * len(bench.owner.started)


def test_a_large_trial_is_sent_in_parts() -> None:
    """Between which others have their turn of the event loop."""
    due: list[Callable[[], None]] = []
    ticks = itertools.repeat(0.0)
    bench = Bench(soon=due.append, clock=lambda: next(ticks))
    bench.ready(0, max_num_seqs=8)
    bench.submit(8)
    due.pop()()
    bench.lose(0)
    ticks = itertools.count(step=0.008)
    bench.ready(0, max_num_seqs=8)
    sizes = []
    while due:
        due.pop()()
        sizes.append(len(bench.held[0]))
    assert sizes[-1] == 8
    assert len(set(sizes)) > 2
