"""Prompts and output lengths, made from a seed: every side of a comparison gets the very same ones."""

import math
import random
from dataclasses import dataclass

BEGINNINGS = (
    "Hello, my name is",
    "The president of the United States is",
    "The capital of France is",
    "The future of AI is",
)
TOKEN_IDS = (10, 1000)  # inside the vocabulary of the smallest model there is, beyond its special tokens
OWN_TOKENS = 16  # of a prompt, behind the beginning that it shares
SPREAD = 1.0  # of the logarithm of lognormal lengths

Prompt = str | list[int]


@dataclass(frozen=True)
class Workload:
    """Prompts, and how many tokens each is to be answered with: no more, no fewer."""

    prompts: list[Prompt]
    max_tokens: list[int]

    @property
    def output_tokens(self) -> int:
        """Of all prompts together."""
        return sum(self.max_tokens)

    @property
    def has_equal_lengths(self) -> bool:
        """Whether one max_tokens holds for all."""
        return len(set(self.max_tokens)) == 1

    def share(self, rank: int, ranks: int) -> "Workload":
        """A rank's part of a static split in order of arrival."""
        start, end = (len(self.prompts) * edge // ranks for edge in (rank, rank + 1))
        return Workload(self.prompts[start:end], self.max_tokens[start:end])


@dataclass(frozen=True)
class WorkloadShape:
    """What workloads of one measurement have in common."""

    prompts: int
    tokens: int  # of an answer; the mean where lengths are lognormal
    prompt_tokens: int | None = None  # None: short texts
    lengths: str = "fixed"  # or "lognormal"; "shared": fixed, and prompts have long beginnings in common
    groups: int = 64  # of prompts that begin alike, where they are shared; the prompts of all of them come in turn

    def make(self, number: int) -> Workload:
        """The workload of this number. They all differ, or a prefix cache would answer all but the first."""
        source = random.Random(number)
        return Workload(
            self._sharing(source) if self.lengths == "shared" else self._alone(source, number),
            [self._length(source) for _ in range(self.prompts)],
        )

    def _alone(self, source: random.Random, number: int) -> list[Prompt]:
        return [self._prompt(source, number * self.prompts + index) for index in range(self.prompts)]

    def _sharing(self, source: random.Random) -> list[Prompt]:
        if self.prompt_tokens is None:
            raise ValueError("shared beginnings need prompt_tokens")
        beginnings = [_tokens(source, self.prompt_tokens) for _ in range(self.groups)]
        return [beginnings[index % self.groups] + _tokens(source, OWN_TOKENS) for index in range(self.prompts)]

    def _prompt(self, source: random.Random, number: int) -> Prompt:
        if self.prompt_tokens is None:
            return f"{number}. {BEGINNINGS[number % len(BEGINNINGS)]}"
        return _tokens(source, self.prompt_tokens)

    def _length(self, source: random.Random) -> int:
        if self.lengths != "lognormal":
            return self.tokens
        drawn = source.lognormvariate(math.log(self.tokens) - SPREAD**2 / 2, SPREAD)
        return max(1, self.tokens // 16, min(self.tokens * 8, round(drawn)))


def _tokens(source: random.Random, count: int) -> list[int]:
    return [source.randrange(*TOKEN_IDS) for _ in range(count)]
