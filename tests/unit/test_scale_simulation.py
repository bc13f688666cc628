"""Many ranks by simulation (bench/scale), with the real dispatcher: what holds for eight ranks holds for 64."""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from app import dispatch as dispatching
from app.dispatch.item import Owner
from app.dispatch.placement import Dispatch
from app.ranks.events import LossKind
from app.settings.declaration import Settings
from bench.scale.engine import Speed
from bench.scale.gateway import SimulatedGateway
from bench.scale.timeline import Timeline
from bench.scale.work import EQUAL, TAILED, Lengths

SPEED = Speed(sequences=16)
MOST_GROWTH = 1.5  # of an item's cost, from 8 ranks to 64: where each rank is asked about it, it is four
CODE = str(Path(dispatching.__path__[0]))


def gateway(ranks: int, **fields: Any) -> SimulatedGateway:
    return SimulatedGateway(Timeline(), ranks, speed=SPEED, **fields)


def calls_per_item(ranks: int, lengths: Lengths, dispatch: Dispatch) -> float:
    """Of functions in app/dispatch: what a call takes is the machine's business, how many there are is ours."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(CODE)

    served = gateway(ranks, dispatch=dispatch)
    batch = served.feed(48 * ranks, lengths)
    sys.setprofile(count)
    try:
        served.run()
    finally:
        sys.setprofile(None)
    return calls / batch.size


@pytest.mark.parametrize("dispatch", Dispatch)
def test_an_item_costs_no_more_with_more_ranks(dispatch: Dispatch) -> None:
    assert calls_per_item(64, EQUAL, dispatch) / calls_per_item(8, EQUAL, dispatch) < MOST_GROWTH


@pytest.mark.parametrize("group_size", [1, 8])
@pytest.mark.parametrize("kind", [LossKind.NODE_LOST, LossKind.DIED])
def test_what_eight_of_64_ranks_lose_runs_again_and_once(group_size: int, kind: LossKind) -> None:
    """The simulation itself refuses a second result, and an end without the first."""
    served = gateway(64, group_size=group_size)
    batch = served.feed(4000, TAILED, seed=1)
    lost = [group for group in served.groups if min(group.ranks) < 8]
    for group in lost:
        served.timeline.after(2.0, lambda group=group: served.lose(group, kind, restart_s=5.0))
    served.run()
    assert batch.is_done
    assert 8 * SPEED.sequences <= batch.lost <= 2 * 8 * SPEED.sequences
    after = [share.items for share in served.stats.summary().ranks[:8]]
    assert min(after) > SPEED.sequences, "a rank that came back has no part in the rest"


def test_a_batch_fills_all_ranks_evenly() -> None:
    served = gateway(64)
    batch = served.feed(100 * 64, EQUAL)
    served.run()
    stats = served.stats.summary()
    assert stats.balance_ratio is not None
    assert stats.balance_ratio > 0.95
    ideal = 64 * SPEED.items_per_s(EQUAL.prompt_tokens, EQUAL.mean)
    assert batch.size / served.timeline.now_s > 0.85 * ideal


def test_tenants_get_what_their_weights_say() -> None:
    served = gateway(8)
    batches = [served.feed(100_000, EQUAL, Owner(f"weight {weight}", weight)) for weight in (1, 3)]
    served.run(30.0)
    one, three = (batch.tokens for batch in batches)
    assert 2.8 < three / one < 3.2


def test_a_small_batch_does_not_wait_for_a_large_one() -> None:
    """No longer than until items of it end, and then for its own."""
    served = gateway(8)
    served.feed(1_000_000, EQUAL, Owner("large"))
    served.run(10.0)
    small = served.submit(20, EQUAL, Owner("small"))
    one_item_s = EQUAL.mean * SPEED.step_s(SPEED.sequences)
    served.run(10.0 + 4 * one_item_s)
    assert small.is_done


def test_a_step_of_a_group_takes_the_most_work_and_the_worst_mode_of_its_ranks() -> None:
    speed = Speed(base_s=1.0, sequence_s=0.1, prompt_token_s=0.01, mixed_s=10.0, eager_s=100.0, graph_tokens=50)
    assert speed.group_step_s([(10, 0), (20, 0)]) == pytest.approx(3.0)
    assert speed.group_step_s([(1, 10), (20, 0)]) == pytest.approx(13.0)
    assert speed.group_step_s([(10, 41), (20, 0)]) == pytest.approx(113.0)


def test_a_lock_step_group_that_is_refilled_together_is_faster_where_answers_end_apart() -> None:
    speed = Speed(sequences=128, graph_tokens=256, mixed_s=0.002, eager_s=0.01)
    seconds = []
    for waves in (False, True):
        served = SimulatedGateway(Timeline(), 2, group_size=2, speed=speed, settings=Settings(waves=waves))
        served.submit(4000, TAILED)
        served.run()
        seconds.append(served.timeline.now_s)
    assert seconds[0] > 1.03 * seconds[1]
