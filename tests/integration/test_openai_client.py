"""OpenAI's own package, unmodified, against simulated ranks; and what docs/openai.md shows."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from app.keys.key import KeyLimits
from app.keys.store import KeysFile
from tests.documented import examples, filled
from tests.service import Service, bearer, serving, until

MODEL = "phalanx-simulated"
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def keys() -> Iterator[KeysFile]:
    with tempfile.TemporaryDirectory(prefix="px-keys-") as folder:
        yield KeysFile(Path(folder) / "keys.json")


@pytest.fixture(scope="module")
def service(keys: KeysFile) -> Iterator[Service]:
    key = keys.create("client").secret
    with serving("--api-keys-file", str(keys.path), api_key=key) as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    (_, _, key) = service.client.headers["Authorization"].partition(" ")
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=key) as client:
        yield client


def run_example(service: Service, number: int) -> str:
    """What an example of the page prints."""
    (_, _, key) = service.client.headers["Authorization"].partition(" ")
    program = filled(examples("python")[number], service.url, key, MODEL)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_first_example_runs(service: Service) -> None:
    chat, story = run_example(service, 0).splitlines()
    assert len(chat.split()) == len(story.split()) == 16  # a simulated token is a word


def test_the_example_of_a_batch_runs(service: Service) -> None:
    lines = [json.loads(text) for text in run_example(service, 1).splitlines() if text]
    assert {line["custom_id"] for line in lines} == {"question-0", "question-1"}


def test_the_example_of_embeddings_runs(service: Service) -> None:
    others = [line.partition(" ") for line in run_example(service, 2).splitlines()]
    assert [text for _, _, text in others] == ["The town lies on a river.", "Seven machines were sold."]
    assert all(-1 <= float(product) <= 1 for product, _, _ in others)


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another/model")


def test_a_chat_streams_with_its_usage(client: openai.OpenAI) -> None:
    options = {"include_usage": True}
    stream = client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,  # type: ignore[arg-type]  # a literal
        max_tokens=5,
        stream=True,
        stream_options=options,  # type: ignore[arg-type]
    )
    chunks = list(stream)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5


def test_embeddings_come_as_numbers(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input=["a", "b"])
    assert [len(entry.embedding) for entry in answer.data] == [8, 8]


def test_errors_are_of_its_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="another", prompt="x")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        client.completions.create(model=MODEL, prompt="x", logprobs=3)
    assert bad.value.type == "invalid_request_error"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_who_sends_too_often_is_told_when_to_come_back_and_does(service: Service, keys: KeysFile) -> None:
    slow = keys.create("slow", limits=KeyLimits(requests_per_s=1))
    until(lambda: service.client.get("/v1/models", headers=bearer(slow.secret)).status_code == 200, "it is unknown")
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=slow.secret) as client:
        began = time.monotonic()
        for _ in range(3):
            assert client.completions.create(model=MODEL, prompt="x").choices
        assert time.monotonic() - began > 1
