"""Prompts and output lengths, made from a seed: every side of a comparison gets the very same ones."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

BEGINNINGS = (
    "Hello, my name is",
    "The president of the United States is",
    "The capital of France is",
    "The future of AI is",
)
TOKEN_IDS = (10, 1000)  # inside the vocabulary of the smallest model there is, beyond its special tokens
OWN_TOKENS = 16  # of a prompt, behind the beginning that it shares
LONGEST = 8  # times the mean
SPREAD = 1.0  # of the logarithm of lognormal lengths

GREEDY: Mapping[str, Any] = {"temperature": 0, "ignore_eos": True}  # Any: vLLM's sampling parameters

Prompt = str | list[int]


@dataclass(frozen=True)
class Workload:
    """Prompts, and how many tokens each is answered with: no more, and no fewer unless answers end by themselves."""

    prompts: list[Prompt]
    max_tokens: list[int]
    sampling: Mapping[str, Any] = field(default_factory=lambda: GREEDY)  # of all prompts. Any: vLLM's parameters
    likely_tokens: list[int] | None = None  # of each answer, where answers end by themselves

    @property
    def output_tokens(self) -> int:
        """Of all prompts together, as far as that is known."""
        return sum(self.likely_tokens or self.max_tokens)

    @property
    def has_equal_lengths(self) -> bool:
        """Whether one max_tokens holds for all."""
        return len(set(self.max_tokens)) == 1

    @property
    def kind(self) -> tuple[bool, bool]:
        """What may matter to who sends it."""
        return self.has_equal_lengths, self.likely_tokens is None

    def is_answered_by(self, tokens: int) -> bool:
        """Whether so many can have come out."""
        return tokens == self.output_tokens if self.likely_tokens is None else 0 < tokens <= sum(self.max_tokens)

    def share(self, rank: int, ranks: int) -> "Workload":
        """A rank's part of a static split in order of arrival."""
        start, end = (len(self.prompts) * edge // ranks for edge in (rank, rank + 1))
        likely = None if self.likely_tokens is None else self.likely_tokens[start:end]
        return replace(
            self, prompts=self.prompts[start:end], max_tokens=self.max_tokens[start:end], likely_tokens=likely
        )


@dataclass(frozen=True)
class WorkloadShape:
    """What workloads of one measurement have in common."""

    prompts: int
    tokens: int  # of an answer; the mean where lengths are lognormal
    prompt_tokens: int | None = None  # None: short texts
    # "fixed"; "lognormal"; "hidden": as long-tailed, but one max_tokens for all, and answers end by themselves;
    # "shared": fixed, and prompts have long beginnings in common
    lengths: str = "fixed"
    vocabulary: int | None = None  # tokens of the model, where lengths are hidden
    groups: int = 64  # of prompts that begin alike, where they are shared; the prompts of all of them come in turn

    def make(self, number: int) -> Workload:
        """The workload of this number. They all differ, or a prefix cache would answer all but the first."""
        source = random.Random(number)
        prompts = self._sharing(source) if self.lengths == "shared" else self._alone(source, number)
        if self.lengths == "hidden":
            return self._ending_by_itself(source, prompts)
        return Workload(prompts, [self._length(source) for _ in range(self.prompts)])

    def _ending_by_itself(self, source: random.Random, prompts: list[Prompt]) -> Workload:
        """Made-up weights draw each token of the vocabulary about as often: with one part in `tokens` of it to stop at,
        lengths are distributed geometrically around that mean."""
        if self.vocabulary is None:
            raise ValueError("hidden lengths need the size of the vocabulary")
        most, stops = self.tokens * LONGEST, max(1, self.vocabulary // self.tokens)
        ids = list(range(self.vocabulary - stops, self.vocabulary))
        likely = [min(most, 1 + int(source.expovariate(1 / self.tokens))) for _ in prompts]
        sampling = {"temperature": 1, "ignore_eos": True, "stop_token_ids": ids}
        return Workload(prompts, [most] * self.prompts, sampling, likely)

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
        return max(1, self.tokens // 16, min(self.tokens * LONGEST, round(drawn)))


def _tokens(source: random.Random, count: int) -> list[int]:
    return [source.randrange(*TOKEN_IDS) for _ in range(count)]
