"""What `python -m bench peers` is reckoned by: the peers' slots, the ideal, and the check of the answers."""

import msgspec
import pytest

from bench.lean_client import Exchange
from bench.load_clients import Load
from bench.peer_figures import Shot, cost_table, ideal, makespan
from bench.peer_services.simulation import Slots, Writer, run_all
from bench.peer_sides import Pace
from bench.peers import Work, check
from bench.processes import MeasurementFailed
from bench.side_table import Cell

STEP_S = 1.0
LOAD = Load(2, 3, 1)
WORK = Work("cost", Pace(4, 0.0), {"max_tokens": LOAD.tokens})
REQUESTS = WORK.requests(LOAD)


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


def answers(*turned: int) -> list[Exchange]:
    """As a side gives them that gets the order of these requests' results wrong."""
    results = run_all(REQUESTS, Writer(), slots=4, step_s=0)
    for request in turned:
        results[request].reverse()
    return [Exchange(200, 0, 0, 0, msgspec.json.encode({"results": found})) for found in results]


def test_the_right_texts_in_the_right_order_pass_whichever_request_ends_first() -> None:
    check(WORK, REQUESTS, answers()[::-1])


def test_a_text_of_another_item_is_found() -> None:
    first, second = answers()
    found = msgspec.json.decode(second.body)
    found["results"][1]["outputs"] = found["results"][2]["outputs"]
    with pytest.raises(MeasurementFailed, match=r"\('item-4', .* came where \('item-4', "):
        check(WORK, REQUESTS, [first, Exchange(200, 0, 0, 0, msgspec.json.encode(found))])


def test_an_answer_that_came_twice_is_found() -> None:
    with pytest.raises(MeasurementFailed, match="not this one again"):
        check(WORK, REQUESTS, [answers()[0]] * 2)


def test_a_request_without_an_answer_is_found() -> None:
    with pytest.raises(MeasurementFailed, match="1 of 2 requests have no answer, such as item-3"):
        check(WORK, REQUESTS, answers()[:1])


def test_results_in_another_order_are_found() -> None:
    with pytest.raises(MeasurementFailed, match="no request has this answer"):
        check(WORK, REQUESTS, answers(1))


def test_items_that_ask_for_lengths_take_as_many_steps() -> None:
    assert Work("slots", Pace(4, 1.0), {"max_tokens": 9}, [3, 1, 2]).steps(LOAD) == [3, 1, 2] * 2


def test_hidden_lengths_differ_and_stay_below_the_most() -> None:
    steps = Work("hidden", Pace(4, 1.0), {"max_tokens": 64, "stop_token_ids": list(range(32))}).steps(Load(1, 500, 1))
    assert max(steps) <= 64
    assert 5 < sum(steps) / len(steps) < 11  # one token in eight ends an answer


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
