"""What `python -m bench peers` is reckoned by: the peers' slots, the ideal, and the check of the answers."""

import msgspec
import pytest

from bench.lean_client import Exchange
from bench.load_clients import Load
from bench.peer_figures import Shot, cost_table, ideal, makespan
from bench.peer_services.simulation import Json, Slots, Writer, run_all
from bench.peer_sides import Pace
from bench.peers import Work, check
from bench.processes import MeasurementFailed
from bench.side_table import Cell

STEP_S = 1.0
LOAD = Load(2, 3, 1)
WORK = Work("cost", Pace(4, 0.0), LOAD.tokens)


def ends_of(slots: Slots[str], until: int) -> dict[str, float]:
    return {job: float(now) for now in range(until + 1) for job in slots.advance(now)}


def test_an_item_takes_as_many_steps_as_it_has_tokens() -> None:
    slots: Slots[str] = Slots(2, STEP_S)
    slots.add("long", 5, now=0)
    slots.add("short", 2, now=0)
    assert ends_of(slots, 10) == {"long": 5, "short": 2}
    assert slots.wait_s(10) is None


def test_a_slot_that_is_free_is_taken_at_once_by_whoever_waits_first() -> None:
    slots: Slots[str] = Slots(1, STEP_S)
    for job, steps in (("a", 2), ("b", 1), ("c", 3)):
        slots.add(job, steps, now=0)
    assert ends_of(slots, 10) == {"a": 2, "b": 3, "c": 6}


def test_steps_that_came_late_are_made_up_for() -> None:
    slots: Slots[str] = Slots(1, STEP_S)
    slots.add("a", 2, now=0)
    slots.add("b", 2, now=0)
    assert slots.wait_s(0.25) == 0.75
    assert slots.advance(4) == ["a", "b"]


def test_after_a_rest_the_next_step_is_a_whole_one() -> None:
    slots: Slots[str] = Slots(1, STEP_S)
    slots.add("a", 1, now=0)
    assert slots.advance(1) == ["a"]
    slots.add("b", 1, now=7.5)
    assert slots.advance(8) == []
    assert slots.advance(8.5) == ["b"]


def test_the_slots_do_what_the_makespan_says() -> None:
    steps = [5, 1, 1, 7, 2, 2, 3]
    slots: Slots[str] = Slots(2, STEP_S)
    for number, count in enumerate(steps):
        slots.add(str(number), count, now=0)
    assert max(ends_of(slots, 40).values()) == makespan(steps, 2)


def test_the_ideal_is_bounded_by_the_work_and_by_the_longest_item() -> None:
    assert ideal([4, 4, 4, 4], workers=2, slots=1, step_s=0.5).best_s == 4
    assert ideal([9, 1, 1, 1], workers=2, slots=1, step_s=1).best_s == 9


def test_a_static_split_waits_for_the_worker_with_the_most_work() -> None:
    found = ideal([1, 8, 1, 8], workers=2, slots=1, step_s=1)
    assert (found.best_s, found.in_order_s, found.static_s) == (9, 10, 16)


def answers(spoil: int | None = None) -> list[Exchange]:
    writer = Writer()
    bodies: list[Json] = [LOAD.body(request) for request in range(LOAD.requests)]
    found = run_all(bodies, writer, slots=4, step_s=0)
    if spoil is not None:
        found[1][spoil]["outputs"][0]["text"] = "short"
    return [Exchange(200, 0, 0, 0, msgspec.json.encode({"results": results})) for results in found]


def test_answers_in_order_and_of_the_right_length_pass() -> None:
    check(WORK, LOAD, answers())


def test_an_answer_of_another_length_is_found() -> None:
    with pytest.raises(MeasurementFailed, match="item 4 has 5 characters"):
        check(WORK, LOAD, answers(spoil=1))


def test_an_answer_that_came_twice_is_found() -> None:
    with pytest.raises(MeasurementFailed, match="6 results for 6 items"):
        check(WORK, LOAD, [answers()[0]] * 2)


def test_results_in_another_order_are_found() -> None:
    first, second = answers()
    turned = msgspec.json.decode(second.body)
    turned["results"].reverse()
    with pytest.raises(MeasurementFailed, match="not in the order"):
        check(WORK, LOAD, [first, Exchange(200, 0, 0, 0, msgspec.json.encode(turned))])


def test_a_side_that_failed_is_in_the_table_with_its_reason() -> None:
    shot = Shot(seconds=2, items=10, http_us=20, all_us=40)
    cells = [Cell(load="1 x 10", side="ours", shots=[shot]), Cell(load="1 x 10", side="theirs", failures=["too large"])]
    shown = cost_table(cells, "ours")
    assert "| 1 x 10 | theirs | failed |" in shown
    assert "- 1 x 10, theirs: too large" in shown


def test_ratios_are_to_the_side_that_is_named() -> None:
    shots = [Shot(seconds=seconds, items=10, http_us=10 * seconds, all_us=40) for seconds in (1, 2)]
    cells = [Cell(load="l", side=side, shots=[shot]) for side, shot in zip(("ours", "theirs"), shots, strict=True)]
    assert "| l | theirs | 5 (5 to 5) | 0.50 | 20.0 (20.0 to 20.0) | 2.00 |" in cost_table(cells, "ours")
