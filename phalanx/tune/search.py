"""What is measured next, from what was measured before. Pure: the same figures give the same answer, so that a sweep
that was interrupted goes on by itself.

One thing after another is changed, and what is clearly faster is kept (a greedy coordinate search): how many ranks are
on a GPU, how experts lie, then the graphs, the sequences, the tokens of a step, and the tiles. What may gain most comes
first, for a budget may not last. Numbers are doubled as long as that helps, or else halved. Then the best two are
measured again, so that no lucky round wins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from msgspec.structs import replace

from phalanx.tune.trials import ROUNDS, Candidate, Trial, is_clearly_faster

BASELINE = Candidate()
FACTORS = (2.0, 0.5)


class Number(StrEnum):
    """What is doubled and halved, by its name in Candidate and Facts."""

    RANKS_PER_GPU = "ranks_per_gpu"
    GRAPH_TOKENS = "graph_tokens"  # before them: more sequences bring graphs for them, which may be all that helps
    SEQUENCES = "sequences"
    STEP_TOKENS = "step_tokens"


BOUNDS = {
    Number.RANKS_PER_GPU: (1, 8),
    Number.SEQUENCES: (16, 4096),
    Number.GRAPH_TOKENS: (64, 8192),
    Number.STEP_TOKENS: (512, 65536),
}


@dataclass(frozen=True)
class Space:
    """What the user leaves open. `groups` counts only for a lock-step group; `tiles`, graphs and several ranks on one
    only on a GPU."""

    groups: bool = True
    numbers: tuple[Number, ...] = tuple(Number)
    tiles: bool = False


class _Needed(Exception):
    """The search cannot go on without this candidate's figures."""

    def __init__(self, candidate: Candidate) -> None:
        super().__init__()
        self.candidate = candidate


def next_candidate(space: Space, trials: Sequence[Trial]) -> Candidate | None:
    """What is to be measured now; None when the search has come to its end."""
    try:
        _Search(trials).run(space)
    except _Needed as needed:
        return needed.candidate
    return None


def to_repeat(trials: Sequence[Trial]) -> Candidate | None:
    """Which of the best two, or else the baseline, is measured again; None when they were, or one stands alone."""
    usable = sorted((trial for trial in trials if trial.is_usable), key=lambda trial: -trial.tokens_per_s)
    if len(usable) < 2:
        return None
    again = [*usable[:2], *(trial for trial in usable if trial.candidate == BASELINE)]
    return next((trial.candidate for trial in again if len(trial.rounds) < 2 * ROUNDS), None)


def winner(trials: Sequence[Trial]) -> Trial | None:
    """The fastest; of those that are not clearly slower, the one that changes least of what the service chooses."""
    usable = [trial for trial in trials if trial.is_usable]
    if not usable:
        return None
    fastest = max(usable, key=lambda trial: trial.tokens_per_s)
    equals = [trial for trial in usable if not is_clearly_faster(fastest, trial)]
    return min(equals, key=lambda trial: (trial.candidate.changes, -trial.tokens_per_s))


class _Search:
    """Walks through the figures there are, from the beginning. What was repeated counts as it was at first."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._trials = {trial.candidate: trial.first(ROUNDS) for trial in trials}
        self._best = Trial(candidate=BASELINE)

    def run(self, space: Space) -> None:
        """To the end, or to the first figures that are missing: raises _Needed."""
        self._best = self._measured(BASELINE)
        if not self._best.is_usable or self._best.facts is None:
            return
        if Number.RANKS_PER_GPU in space.numbers:
            self._walk(Number.RANKS_PER_GPU)
        if space.groups and self._best.facts is not None and self._best.facts.group_kind == "lockstep":
            self._keep_if_faster(replace(BASELINE, expert_parallel=False))  # as ranks that share a GPU are anyway
        for number in space.numbers:
            if number is not Number.RANKS_PER_GPU:
                self._walk(number)
        if space.tiles and self._best.facts is not None and self._best.facts.missing_tiles:
            self._keep_if_faster(replace(self._best.candidate, tiles=True))

    def _walk(self, number: Number) -> None:
        for factor in FACTORS:
            began = self._best
            while (step := self._step(number, factor)) is not None and self._keep_if_faster(step):
                pass
            if self._best is not began:  # what helps the one way does not help the other way
                return

    def _step(self, number: Number, factor: float) -> Candidate | None:
        """From the best; None where that cannot be."""
        facts = self._best.facts
        value = None if facts is None else getattr(facts, number)
        if facts is None or value is None:
            return None
        wanted = int(value * factor)
        candidate = replace(self._best.candidate, **{number: wanted})
        if number is Number.GRAPH_TOKENS:  # they decide the sequences, unless those are said
            candidate = replace(candidate, sequences=facts.sequences)
        elif number is Number.SEQUENCES and candidate.graph_tokens is not None:  # for all of them, at least
            candidate = replace(candidate, graph_tokens=max(candidate.graph_tokens, wanted))
        least, most = BOUNDS[number]
        steps = candidate.step_tokens or facts.step_tokens
        largest = max(candidate.sequences or facts.sequences, candidate.graph_tokens or 0)
        fits = steps is None or largest <= steps  # a step has a token of each sequence
        return candidate if least <= wanted <= most and fits else None

    def _keep_if_faster(self, candidate: Candidate) -> bool:
        trial = self._measured(candidate)
        if not is_clearly_faster(trial, self._best):
            return False
        self._best = trial
        return True

    def _measured(self, candidate: Candidate) -> Trial:
        if candidate not in self._trials:
            raise _Needed(candidate)
        return self._trials[candidate]
