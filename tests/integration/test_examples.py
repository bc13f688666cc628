"""The scripts in examples/, as one runs them, against simulated ranks with API keys."""

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.keys.store import KeysFile
from tests.service import Service, serving

EXAMPLES = Path(__file__).parents[2] / "examples"
DATA_PARALLEL = EXAMPLES / "data_parallel" / "data_parallel.py"
TORCHRUN_EXAMPLE = EXAMPLES / "torchrun_example" / "torchrun_example.py"
BEGINNINGS = [
    "Hello, my name is",
    "The president of the United States is",
    "The capital of France is",
    "The future of AI is",
]


@pytest.fixture(scope="module")
def keys() -> Iterator[KeysFile]:
    with tempfile.TemporaryDirectory(prefix="px-keys-") as folder:
        yield KeysFile(Path(folder) / "keys.json")


@pytest.fixture(scope="module")
def api_key(keys: KeysFile) -> str:
    return keys.create("client").secret


@pytest.fixture(scope="module")
def service(keys: KeysFile, api_key: str) -> Iterator[Service]:
    with serving("--api-keys-file", str(keys.path), api_key=api_key) as service:
        yield service


def run(script: Path, *arguments: str, api_key: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        env=os.environ | {"PHALANX_API_KEY": api_key},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_data_parallel_shows_five_outputs_of_each_rank(service: Service, api_key: str) -> None:
    done = run(DATA_PARALLEL, "--url", service.url, "--api-key", api_key)
    assert (done.returncode, done.stderr) == (0, "")
    processed = re.findall(r"^DP rank (\d) has processed (\d+) prompts$", done.stdout, re.MULTILINE)
    assert [rank for rank, _ in processed] == ["0", "1"]
    assert sum(int(prompts) for _, prompts in processed) == 400
    shown = re.findall(r"^DP rank (\d), Prompt: '(.+)', Generated text: ' .+'$", done.stdout, re.MULTILINE)
    assert [rank for rank, _ in shown] == ["0"] * 5 + ["1"] * 5
    assert {prompt for _, prompt in shown} <= set(BEGINNINGS)


def test_half_of_data_parallels_prompts_get_16_tokens_and_the_others_20(service: Service, api_key: str) -> None:
    before = service.metric("phalanx_completion_tokens_total")
    assert run(DATA_PARALLEL, "--url", service.url, api_key=api_key).returncode == 0
    assert service.metric("phalanx_completion_tokens_total") - before == 200 * 16 + 200 * 20


def test_torchrun_example_prints_its_four_prompts_with_their_texts(service: Service, api_key: str) -> None:
    done = run(TORCHRUN_EXAMPLE, "--url", f"{service.url}/", api_key=api_key)
    assert (done.returncode, done.stderr) == (0, "")
    shown = re.findall(r"^Prompt: '(.+)', Generated text: ' (.+)'$", done.stdout, re.MULTILINE)
    assert [prompt for prompt, _ in shown] == BEGINNINGS
    assert Counter(len(text.split()) for _, text in shown) == {16: 4}  # a simulated token is a word


@pytest.mark.parametrize("script", [DATA_PARALLEL, TORCHRUN_EXAMPLE], ids=lambda script: script.stem)
def test_a_service_that_refuses_or_is_not_there_is_said_in_one_line(service: Service, script: Path) -> None:
    refused = run(script, "--url", service.url)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f'{service.url} answers 401: {{"error":{{"message":"there is no API key')
    absent = run(script, "--url", "http://127.0.0.1:1")
    assert absent.returncode == 1
    assert absent.stderr.startswith("no answer from http://127.0.0.1:1: ")
    assert len((refused.stderr + absent.stderr).splitlines()) == 2
