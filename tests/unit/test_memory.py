"""What requests hold is counted, a body beyond the bound is refused, a result never."""

import pytest

from app.batches.memory import HeldBytes
from app.errors import TooLarge, TryLater


def test_bodies_are_counted_together_and_refused_beyond_the_bound() -> None:
    held = HeldBytes(100, lambda: 7.0)
    first, second = held.open(), held.open()
    first.take(60)
    with pytest.raises(TryLater, match=r"holds 60 bytes .* no room for 41 more \(--max-held-bytes 100\)") as refused:
        second.take(41)
    assert (refused.value.status, refused.value.code, refused.value.retry_after_s) == (503, "memory_full", 7.0)
    second.take(40)
    assert held.total == 100


def test_what_alone_is_more_than_there_is_for_all_can_never_fit() -> None:
    held = HeldBytes(100, lambda: 7.0)
    first, second = held.open(), held.open()
    first.take(60)
    with pytest.raises(TooLarge, match=r"would hold 101 bytes .* at most 100 .*--max-held-bytes") as refused:
        second.take(101)
    assert (refused.value.status, refused.value.code) == (413, "body_too_large")


def test_what_is_given_back_makes_room() -> None:
    held = HeldBytes(100, lambda: 7.0)
    first, second = held.open(), held.open()
    first.take(90)
    first.give_back(50)
    second.take(60)
    first.close()
    assert held.total == 60


def test_results_are_counted_and_never_refused() -> None:
    held = HeldBytes(100, lambda: 0.0)
    first, second = held.open(), held.open()
    first.add(500)
    with pytest.raises(TryLater) as refused:
        second.take(1)
    assert refused.value.retry_after_s == 1.0
    first.close()
    second.take(100)


def test_what_is_closed_is_let_go_once_and_counts_no_more() -> None:
    held = HeldBytes(100, lambda: 0.0)
    first, second = held.open(), held.open()
    first.take(30)
    second.take(20)
    first.close()
    first.close()
    first.add(50)  # a result that comes after the client has gone
    assert held.total == 20
