"""Prompts, reference texts and a service of one rank for the tests on real vLLM."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.documented import serve_flags
from tests.service import Json, Service, serving

PROMPT_COUNT = 200
REFERENCE_DEADLINE_S = 600
# vLLM compiles some parts in spite of --enforce-eager, for 20 s each: its embedding under tensor parallelism, logprobs.
UNCOMPILED = {"TORCHDYNAMO_DISABLE": "1"}
BUSY = "send the item again later"  # too many structures wait, or nothing got any CPU time
WORDS = """the a river city of France is was large small seven machine words and people said that in under light"""


def mixed_prompts(count: int = PROMPT_COUNT) -> list[Any]:
    """Text, token ids and chats in turn, all different, from one seed."""
    chance = random.Random(11)
    prompts: list[Any] = []
    for index in range(count):
        text = " ".join(chance.choice(WORDS.split()) for _ in range(chance.randint(1, 40)))
        if index % 3 == 0:
            prompts.append(text)
        elif index % 3 == 1:
            prompts.append([chance.randrange(10, 1000) for _ in range(chance.randint(1, 60))])
        else:
            prompts.append([{"role": "user", "content": text}])
    return prompts


def as_items(prompts: list[Any]) -> list[Any]:
    """Prompts as the service takes them."""
    return [
        {"messages": prompt} if isinstance(prompt, list) and isinstance(prompt[0], dict) else prompt
        for prompt in prompts
    ]


def has_to_wait(result: Json) -> bool:
    return BUSY in result.get("error", {}).get("message", "")


def judged(service: Service, items: list[Any], results: list[Json]) -> list[Json]:
    """The results, of which those that waited too long to be compiled are sent again, as they are told to.

    On a slow machine that is no fault. The first of them has nobody to wait for.
    """
    waiting = [place for place, result in enumerate(results) if has_to_wait(result)]
    if not waiting:
        return results
    some = [items[place] for place in waiting]
    again = service.batch(some)["results"]
    assert not all(map(has_to_wait, again))
    judgements = dict(zip(waiting, judged(service, some, again), strict=True))
    return [judgements.get(place, result) for place, result in enumerate(results)]


class Reference:
    """What vllm.LLM alone says to the mixed prompts, greedily. It works while a service starts, on the other core."""

    def __init__(self, model: Path, folder: Path) -> None:
        prompts_file, self._answers = folder / "prompts.json", folder / "answers.json"
        prompts_file.write_text(json.dumps(mixed_prompts()))
        program = Path(__file__).with_name("reference.py")
        self._log = folder / "reference.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(program), str(model), str(prompts_file), str(self._answers)],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def texts(self) -> list[str]:
        """In the order of the prompts."""
        assert self._process.wait(REFERENCE_DEADLINE_S) == 0, self._log.read_text()
        return list(json.loads(self._answers.read_text()))

    def discard(self) -> None:
        """Ends what still works."""
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture(scope="session")
def dense_reference(dense_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """Of the tiny dense model. Before the service, among a test's fixtures."""
    reference = Reference(dense_model, tmp_path_factory.mktemp("dense-reference"))
    yield reference
    reference.discard()


@pytest.fixture(scope="session")
def trained_reference(trained_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """Of the built-in model, a mixture of experts."""
    reference = Reference(trained_model, tmp_path_factory.mktemp("trained-reference"))
    yield reference
    reference.discard()


@pytest.fixture(scope="package")
def one_rank(dense_model: Path, dense_reference: Reference) -> Iterator[Service]:
    """A service of one rank, for what concerns a rank alone. Its start leaves the reference a core to work on."""
    flags = (str(dense_model), "--enforce-eager", "--structure-cpu-s", "2")
    with serving(
        *flags, "--", *serve_flags("## What there is"), engine="vllm", dp_size=1, variables=UNCOMPILED
    ) as running:
        yield running
