"""Lengths of prompts and answers in tokens, as they are said on the command line, and drawn."""

import math
import random
import re

import msgspec

from phalanx.generate.errors import UsageProblem

LOG_SPREAD = 1.0  # of lognormal lengths: the standard deviation of their logarithm
FORMS = "a number such as 128, or lognormal:MEAN:MAX such as lognormal:128:1024"


class Lengths(msgspec.Struct, frozen=True):
    """All the same, or with a `limit` lognormal: most are short and few are long, as answers are.

    The mean is that before lengths are cut off at the limit.
    """

    mean: int
    limit: int | None = None

    def __str__(self) -> str:
        return str(self.mean) if self.limit is None else f"lognormal:{self.mean}:{self.limit}"

    def draw(self, source: random.Random) -> int:
        """One of them, at least 1."""
        if self.limit is None:
            return self.mean
        drawn = source.lognormvariate(math.log(self.mean) - LOG_SPREAD**2 / 2, LOG_SPREAD)
        return min(self.limit, max(1, round(drawn)))


def parse_lengths(flag: str, text: str) -> Lengths:
    """Raises UsageProblem."""
    found = re.fullmatch(r"([1-9]\d*)|lognormal:([1-9]\d*):([1-9]\d*)", text)
    if found is None:
        raise UsageProblem(f"{flag} is {text}: it must be {FORMS}")
    if found[1]:
        return Lengths(int(found[1]))
    mean, limit = int(found[2]), int(found[3])
    if limit < mean:
        raise UsageProblem(f"{flag} is {text}: the longest, {limit}, is less than the mean, {mean}")
    return Lengths(mean, limit)
