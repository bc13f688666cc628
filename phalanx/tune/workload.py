"""The work that every candidate gets: the very same prompts in the same order, however many of them it takes, and
others in each batch of a start.

Others, because a prefix cache would answer most of a second batch with the same.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import msgspec

from phalanx.generate.errors import RowProblem, UsageProblem
from phalanx.generate.job import digest_of
from phalanx.generate.parameters import Parameters
from phalanx.generate.prompts import PromptMaker
from phalanx.generate.rows import Format, open_source
from phalanx.tune.lengths import Lengths

TOKEN_IDS = (10, 1000)  # in the vocabulary of the smallest model there is, beyond its special tokens
MAX_ROWS = 200_000  # of a file that are held in memory
EXACT = {"ignore_eos": True}  # an answer is as long as it is told
Item = dict[str, Any]  # Any: JSON


class Workload(Protocol):
    """What is to be done, over and over."""

    @property
    def words(self) -> str:
        """It, for people."""

    @property
    def fingerprint(self) -> str:
        """The same only for the same work."""

    @property
    def sampling_params(self) -> Item:
        """Of all items."""

    @property
    def distinct(self) -> int | None:
        """How many of its prompts there are, until they come again; None: they never do."""

    def items(self, number: int, begin: int, count: int) -> list[Item]:
        """Those of a batch. What is made up goes by its number, and rows by where they begin."""


@dataclass(frozen=True)
class MadeUp:
    """Random tokens, answered at given lengths."""

    inputs: Lengths
    outputs: Lengths
    more: Item

    @property
    def words(self) -> str:
        return f"{self.inputs} tokens in, {self.outputs} out"

    @property
    def fingerprint(self) -> str:
        return digest("made up", self.words, self.more)

    @property
    def sampling_params(self) -> Item:
        return {"temperature": 0, **EXACT, **self.more}

    @property
    def distinct(self) -> int | None:
        return None

    def items(self, number: int, begin: int, count: int) -> list[Item]:
        source = random.Random(number)  # noqa: S311  no secret
        return [
            {
                "prompt": [source.randrange(*TOKEN_IDS) for _ in range(self.inputs.draw(source))],
                "sampling_params": {"max_tokens": self.outputs.draw(source)},
            }
            for _ in range(count)
        ]


class FromFile:
    """The rows of a file, in turn, and again from the first when all were had. Raises UsageProblem.

    Answers end by themselves, or after `max_tokens`; with `outputs` they have these lengths instead.
    """

    def __init__(
        self, path: Path, parameters: Parameters, outputs: Lengths | None, max_tokens: int, more: Item
    ) -> None:
        self._path = path
        self._outputs = outputs
        self._rows = list(islice(_prompts(path, parameters), MAX_ROWS))
        if not self._rows:
            raise UsageProblem(f"no prompt can be made of any row of {path}: look at --prompt-column and --template")
        exact = {} if outputs is None else EXACT
        self.sampling_params: Item = {"temperature": 0, "max_tokens": max_tokens, **exact, **more}
        self.fingerprint = digest(digest_of(path), parameters, str(outputs), self.sampling_params)

    @property
    def words(self) -> str:
        answers = self._outputs or f"at most {self.sampling_params['max_tokens']}"
        return f"{len(self._rows):,} prompts of {self._path.name}, {answers} tokens out"

    @property
    def distinct(self) -> int | None:
        return len(self._rows)

    def items(self, number: int, begin: int, count: int) -> list[Item]:
        source = random.Random(number)  # noqa: S311  no secret
        rows = [self._rows[place % len(self._rows)] for place in range(begin, begin + count)]
        if self._outputs is None:
            return rows
        return [{**row, "sampling_params": {"max_tokens": self._outputs.draw(source)}} for row in rows]


def _prompts(path: Path, parameters: Parameters) -> Iterator[Item]:
    """Those that can be made."""
    maker = PromptMaker(parameters)
    try:
        for chunk in open_source(path, Format(parameters.input_format)).chunks():
            for row in chunk.rows:
                try:
                    item = maker.item(row)
                except RowProblem:
                    continue
                del item["custom_id"]  # rows come more than once
                yield item
    except OSError as error:
        raise UsageProblem(f"{path} cannot be read: {error.strerror}") from None


def digest(*parts: object) -> str:
    """Of what JSON can say, and sizes in bytes."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic", enc_hook=int)).hexdigest()[:10]
