"""Models, prompts and reference texts for the tests on real vLLM. Each service is started once per module."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service import Service, serving

PROMPT_COUNT = 200
REFERENCE_DEADLINE_S = 240
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


def build_model(shape: str, folder: Path) -> Path:
    """One of the project's own small models."""
    subprocess.run(
        [sys.executable, "-P", "-m", "engines", "build-model", "--shape", shape, "--out", str(folder)],
        check=True,
        timeout=120,
        capture_output=True,
    )
    return folder


def reference_texts(model: Path, prompts: list[Any], folder: Path) -> list[str]:
    """What vllm.LLM alone says, greedily."""
    prompts_file, answers_file = folder / "prompts.json", folder / "answers.json"
    prompts_file.write_text(json.dumps(prompts))
    program = Path(__file__).with_name("reference.py")
    with (folder / "reference.log").open("wb") as log:
        subprocess.run(
            [sys.executable, str(program), str(model), str(prompts_file), str(answers_file)],
            check=True,
            timeout=REFERENCE_DEADLINE_S,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    return list(json.loads(answers_file.read_text()))


@pytest.fixture(scope="session")
def moe_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny mixture of experts."""
    return build_model("moe", tmp_path_factory.mktemp("models") / "moe")


@pytest.fixture(scope="session")
def dense_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny dense model."""
    return build_model("dense", tmp_path_factory.mktemp("models") / "dense")


@pytest.fixture(scope="session")
def dense_reference(dense_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Its texts for the mixed prompts."""
    return reference_texts(dense_model, mixed_prompts(), tmp_path_factory.mktemp("dense-reference"))


@pytest.fixture(scope="session")
def moe_reference(moe_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Its texts for the mixed prompts."""
    return reference_texts(moe_model, mixed_prompts(), tmp_path_factory.mktemp("moe-reference"))


@pytest.fixture(scope="session")
def one_rank(dense_model: Path) -> Iterator[Service]:
    """A service of one rank, for what concerns a rank alone."""
    flags = (str(dense_model), "--enforce-eager", "--structure-cpu-s", "2")
    with serving(*flags, engine="vllm", dp_size=1) as running:
        yield running
