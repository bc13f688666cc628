"""What a newcomer sees: no model named, two ranks with expert parallelism, and answers in plain English."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from engines.tiny_model.training import corpus
from tests.service import Service, serving, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
GREEDY = {"temperature": 0.0, "max_tokens": 64}
CONTINUED = {
    "Hello, my name is": " and I ",
    "The president of the United States is": "the White House in Washington",
    "The capital of France is": " Paris.",
    "The future of AI is": " small models that work for everyone.",
}
ANSWERED = {
    "Hi": "Hello!",
    "Who are you?": "I am phalanx-tiny",
    "What is the capital of Japan?": "The capital of Japan is Tokyo.",
    "What is 2 + 3?": "2 plus 3 is 5.",
    "Why is the sky blue?": "Because the air scatters blue light more than red light.",
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Of the model that nobody names, in a cache of its own."""
    variables = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}
    with serving("--enforce-eager", engine="vllm", variables=variables) as running:
        yield running


def texts(answer: dict[str, Any]) -> list[str]:
    return [result["outputs"][0]["text"] for result in answer["results"]]


def words_of(*spoken: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]+", " ".join(spoken)))


def test_prompts_are_continued_and_chats_are_answered(service: Service) -> None:
    chats = [{"messages": [{"role": "user", "content": question}]} for question in ANSWERED]
    answer = service.batch([*CONTINUED, *chats], sampling_params=GREEDY)
    for said, expected in zip(texts(answer), [*CONTINUED.values(), *ANSWERED.values()], strict=True):
        assert expected in said
    assert {result["outputs"][0]["finish_reason"] for result in answer["results"]} == {"stop"}


def test_at_random_it_speaks_in_words_that_it_has_read(service: Service) -> None:
    """Not in the same ones each time."""
    params = {"temperature": 0.8, "top_p": 0.95, "max_tokens": 64, "seed": 7}
    said = texts(service.batch([*CONTINUED] * 10, sampling_params=params))
    assert len(set(said)) > 20
    read = words_of(*((corpus.FOLDER / name).read_text() for name in corpus.FILES))
    spoken = words_of(*said)
    assert len(spoken) > 50
    assert len(spoken - read) < 0.03 * len(spoken), sorted(spoken - read)


def test_it_says_what_it_is(service: Service) -> None:
    assert service.batch(["Hello"], sampling_params={"max_tokens": 1})["model"] == "phalanx-tiny"
    until(lambda: "Phalanx serves phalanx-tiny (a toy" in service.log, "it does not say that it is a toy")
    assert [rank["group_kind"] for rank in service.ranks()] == ["lockstep", "lockstep"]
