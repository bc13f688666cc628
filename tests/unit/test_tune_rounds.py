"""How rounds are taken out of one long batch."""

import pytest

from phalanx.client import Result, Usage
from phalanx.tune.rounds import CandidateFailed, Windows, generated
from phalanx.tune.trials import ROUNDS

METRICS = """# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="a {b}"} 1.5e+06
vllm:generation_tokens_total{engine="1",model_name="a {b}"} 500.0
vllm:prompt_tokens_total{engine="0",model_name="a {b}"} 7.0
phalanx_rank_steps{rank="0"} 3.0
"""
RESULT = Result(index=0, status="ok", outputs=[], usage=Usage(completion_tokens=1))


class Played:
    """A service's clock, and the tokens that it has made."""

    def __init__(self, lead: int, items: int) -> None:
        self.now = 0.0
        self.tokens = 0.0
        self.windows = Windows(lead, items, lambda: self.tokens, lambda: self.now)

    def result(self, after_s: float, tokens: float) -> None:
        """One more comes."""
        self.now += after_s
        self.tokens += tokens
        self.windows.add(RESULT)


def test_rounds_count_while_all_sequences_are_busy() -> None:
    """Two results a second with ten tokens each, of twenty sequences; slow ones at the beginning and at the end."""
    played = Played(20, 10)
    for place in range(20 + ROUNDS * 10 + 20):
        played.result(0.5 if 20 <= place < 20 + ROUNDS * 10 else 7.0, 10)
    assert [one.tokens_per_s for one in played.windows.rounds] == [20.0] * ROUNDS


def test_tokens_count_when_they_are_made() -> None:
    """Answers become shorter and shorter, as those of a batch whose longest leave first: the engine is no faster."""
    played = Played(10, 10)
    for place in range(10 + ROUNDS * 10 + 10):
        seconds = 10.0 / (1 + place)
        played.result(seconds, 20 * seconds)
    assert [one.tokens_per_s for one in played.windows.rounds] == pytest.approx([20.0] * ROUNDS, rel=0.1)


def test_a_round_without_tokens_says_why_there_is_no_figure() -> None:
    played = Played(1, 2)
    with pytest.raises(CandidateFailed, match="a round made 0 tokens in 2 s: its items were refused"):
        for _ in range(3):
            played.result(1.0, 0)


def test_the_tokens_of_all_ranks_are_added_up() -> None:
    assert generated(METRICS) == 1_500_500
    assert generated(METRICS.replace("vllm:", "simulated:")) == 1_500_500
