"""How long answers become, learned while many of them are still being made.

Short answers finish first, so the mean of those that have finished says too little. What still runs counts as at least
as long as it is already: distributions are fitted to both (expectation maximisation), and the likeliest is taken. Where
enough has been seen, the share that really ended at each length takes its place.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PRIOR_ITEMS = 4  # that the prior counts as in the beginning
PRIOR_FADES = 5  # items that have ended, until it counts half of that
TRUST_ITEMS = 2  # at risk at some length, until what was seen there weighs as much as the fitted distribution
ROUNDS = 30
FEWEST_DEVIATION = 1e-3  # of the mean: lengths may all be equal
BUNDLES = 16  # of lengths, for each factor of e
LEAST_SHARE = 1e-9  # of survivors: below it the distribution says nothing of the next ones


@dataclass(frozen=True)
class LengthPrior:
    """What to believe before a batch has told anything: the logarithm of used / asked tokens, and its deviation."""

    mean: float = math.log(0.5)
    sigma: float = 0.7


@dataclass(frozen=True)
class Observed:
    """Lengths, each with how many sequences it stands for: those that ended, and those that are at least so long."""

    ended: Sequence[tuple[float, float]]
    longer: Sequence[tuple[float, float]]


class Fit:
    """A normal distribution of lengths to the power of `power`; 0: of their logarithms."""

    def __init__(self, power: float) -> None:
        self._power = power
        self._mean: float | None = None
        self._deviation = 1.0

    def fit(self, observed: Observed) -> float:
        """The logarithm of the likelihood of what was observed, after fitting. Goes on from the former fit."""
        ended = [(self._scaled(length), count) for length, count in observed.ended]
        longer = [(self._scaled(length), count) for length, count in observed.longer]
        everything = [*ended, *longer]
        total = sum(count for _, count in everything)
        if self._mean is None:
            self._mean = sum(value * count for value, count in everything) / total
            self._deviation = self._enough(
                math.sqrt(sum(count * (value - self._mean) ** 2 for value, count in everything) / total)
            )
        base = sum(value * count for value, count in ended)
        squares = sum(value * value * count for value, count in ended)
        for _ in range(ROUNDS):
            mean, deviation = self._mean, self._deviation
            first, second = base, squares
            for value, count in longer:
                beyond = _hazard((value - mean) / deviation)
                first += count * (mean + deviation * beyond)
                second += count * (mean**2 + deviation**2 + deviation * beyond * (value + mean))
            self._mean = first / total
            self._deviation = self._enough(math.sqrt(max(0.0, second / total - self._mean**2)))
        likely = sum(count * self._log_density(value) for value, count in ended)
        likely += sum(count * (self._power - 1) * math.log(length) for length, count in observed.ended)
        likely += sum(count * math.log(self._power or 1.0) for _, count in observed.ended)
        return likely + sum(count * math.log(max(1e-300, self._beyond(value))) for value, count in longer)

    def survival(self, tokens: float) -> float:
        """The share that is longer."""
        return 1.0 if tokens <= 0 else self._beyond(self._scaled(tokens))

    def _scaled(self, tokens: float) -> float:
        return float(tokens**self._power) if self._power else math.log(tokens)

    def _enough(self, deviation: float) -> float:
        return max(FEWEST_DEVIATION * max(1.0, abs(self._mean or 0.0)), deviation)

    def _beyond(self, value: float) -> float:
        return 0.5 * math.erfc((value - (self._mean or 0.0)) / self._deviation / math.sqrt(2))

    def _log_density(self, value: float) -> float:
        z = (value - (self._mean or 0.0)) / self._deviation
        return -z * z / 2 - math.log(self._deviation) - math.log(2 * math.pi) / 2


class Lengths:
    """Of one batch's sequences."""

    def __init__(self, prior: LengthPrior) -> None:
        self._prior = prior
        self._ended: Counter[int] = Counter()  # tokens of those that ended by themselves
        self._cut: Counter[int] = Counter()  # of those that max_tokens ended
        self._fits = [Fit(power) for power in (0, 1 / 3, 1)]
        self._best = self._fits[0]

    def add(self, tokens: int, *, is_cut: bool) -> None:
        """One has finished."""
        (self._cut if is_cut else self._ended)[max(1, tokens)] += 1

    def mean(self, most: float) -> float:
        """Tokens of a sequence that may have `most`, about: of those that have finished, and the prior."""
        seen = self._ended + self._cut
        known = sum(tokens * count for tokens, count in seen.items())
        prior = min(1.0, math.exp(self._prior.mean + self._prior.sigma**2 / 2)) * most
        return (known + PRIOR_ITEMS * prior) / (seen.total() + PRIOR_ITEMS)

    def learn(self, running: Counter[int], most: float) -> None:
        """Fits the distributions. `running` are the tokens so far of those that have not finished, of `most`."""
        middle, sigma = math.log(most) + self._prior.mean, self._prior.sigma
        weight = PRIOR_ITEMS / 2 / (1 + self._ended.total() / PRIOR_FADES)
        prior = [(max(1.0, math.exp(middle + side * sigma)), weight) for side in (-1, 1)]
        observed = Observed([*_bundled(self._ended), *prior], _bundled(running + self._cut))
        self._best = max(self._fits, key=lambda fit: fit.fit(observed))

    def reach(self, most: float) -> float:
        """A length that few exceed."""
        length = most
        while length > 1 and self._best.survival(length / 1.5) < 0.02:
            length /= 1.5
        return length

    def ends(self, running: Counter[int], most: float, pieces: int) -> list[float]:
        """For each piece of the way to `most` tokens: the share of those that reach it and end in it."""
        width = most / pieces
        ended = _histogram(self._ended, width, pieces)
        longer = _histogram(running + self._cut, width, pieces)
        at_risk = float(sum(ended) + sum(longer))
        shares = []
        for piece in range(pieces):
            at_risk -= longer[piece] / 2
            reach = self._best.survival(piece * width)
            fitted = 1 - self._best.survival((piece + 1) * width) / reach if reach > LEAST_SHARE else 1.0
            shares.append(min(1.0, (ended[piece] + TRUST_ITEMS * fitted) / (max(0.0, at_risk) + TRUST_ITEMS)))
            at_risk -= ended[piece] + longer[piece] / 2
        return shares


def rounded(ages: Iterable[tuple[float, int]]) -> Counter[int]:
    """Tokens so far, each of so many sequences, as `Lengths` takes them."""
    found: Counter[int] = Counter()
    for age, count in ages:
        found[max(1, round(age))] += count
    return found


def _hazard(z: float) -> float:
    """Of the standard normal distribution."""
    if z > 8:
        return z
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / (0.5 * math.erfc(z / math.sqrt(2)))


def _bundled(tokens: Counter[int]) -> list[tuple[float, float]]:
    """The same, those of nearly equal length together: there may be thousands."""
    bundles: Counter[int] = Counter()
    for length, count in tokens.items():
        bundles[round(math.log(length) * BUNDLES)] += count
    return [(math.exp(key / BUNDLES), float(count)) for key, count in bundles.items()]


def _histogram(tokens: Counter[int], width: float, pieces: int) -> list[int]:
    found = [0] * pieces
    for length, count in tokens.items():
        found[min(pieces - 1, int((length - 0.5) / width))] += count
    return found
