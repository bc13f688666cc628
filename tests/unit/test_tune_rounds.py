"""How rounds are taken out of one long batch."""

from phalanx.client import Result, Usage
from phalanx.tune.rounds import _Windows
from phalanx.tune.search import ROUNDS


def test_rounds_count_while_all_sequences_are_busy() -> None:
    """Two results a second with ten tokens each, of twenty sequences; slow ones at the beginning and at the end."""
    now = [0.0]
    windows = _Windows(20, 10, lambda: now[0])
    for place in range(20 + ROUNDS * 10 + 20):
        now[0] += 0.5 if 20 <= place < 20 + ROUNDS * 10 else 7.0
        windows.add(Result(index=place, status="ok", outputs=[], usage=Usage(completion_tokens=10)))
    assert [one.tokens_per_s for one in windows.rounds] == [20.0] * ROUNDS


def test_items_without_an_answer_make_no_tokens() -> None:
    now = [0.0]
    windows = _Windows(1, 2, lambda: now[0])
    for place in range(1 + ROUNDS * 2 + 1):
        now[0] += 1.0
        tokens = 0 if place == 2 else 10
        windows.add(Result(index=place, status="ok", outputs=[], usage=Usage(completion_tokens=tokens)))
    assert [one.output_tokens for one in windows.rounds] == [10, 20, 20]
