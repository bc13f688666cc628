"""What a newcomer sees: no model named, and answers in plain English from two lock-step ranks with expert parallelism.

Real vLLM through HTTP, compiled as it is by default.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from engines.tiny_model.training import corpus
from tests.e2e.conftest import Reference, as_items, mixed_prompts
from tests.service import Service, serving, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
GREEDY = {"temperature": 0.0, "max_tokens": 12}
SENTENCES = {"temperature": 0.0, "max_tokens": 64}
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
def service(trained_reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Of the model that nobody names, in a cache of its own. The reference works meanwhile."""
    variables = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}
    with serving(engine="vllm", variables=variables) as running:
        yield running


def texts(answer: dict[str, Any]) -> list[str]:
    return [result["outputs"][0]["text"] for result in answer["results"]]


def words_of(*spoken: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]+", " ".join(spoken)))


def test_prompts_are_continued_and_chats_are_answered(service: Service) -> None:
    chats = [{"messages": [{"role": "user", "content": question}]} for question in ANSWERED]
    answer = service.batch([*CONTINUED, *chats], sampling_params=SENTENCES)
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


def test_two_expert_parallel_ranks_say_what_one_engine_alone_says(
    service: Service, trained_reference: Reference
) -> None:
    prompts = mixed_prompts()
    answer = service.batch(as_items(prompts), sampling_params=GREEDY)
    assert answer["request_counts"]["ok"] == len(prompts)
    assert texts(answer) == trained_reference.texts()
    assert [result["index"] for result in answer["results"]] == list(range(len(prompts)))


def test_the_ranks_say_that_they_are_one_lockstep_group(service: Service) -> None:
    ranks = service.ranks()
    assert [rank["group"] for rank in ranks] == [0, 0]
    assert all(rank["group_kind"] == "lockstep" and rank["expert_parallel"] for rank in ranks)
    watched = " ".join(" ".join(rank["processes"]) for rank in ranks)
    for title in ("VLLM::EngineCore", "VLLM::Worker", "VLLM::DPCoordinator"):
        assert title in watched


def test_the_seeds_workload_is_spread_evenly(service: Service) -> None:
    prompts = [
        {"prompt": prompt, "sampling_params": {"max_tokens": (16, 20)[index % 2]}}
        for index, prompt in enumerate([*CONTINUED] * 100)
    ]
    answer = service.batch(prompts, sampling_params={"temperature": 0.8, "top_p": 0.95})
    assert answer["request_counts"]["ok"] == 400
    items = [share["items"] for share in answer["stats"]["ranks"]]
    assert abs(items[0] - items[1]) <= 20


def test_one_prompt_is_enough_for_two_ranks(service: Service, trained_reference: Reference) -> None:
    """The idle rank takes part in every step with a dummy."""
    answer = service.batch(as_items(mixed_prompts())[:1], sampling_params=GREEDY)
    assert answer["request_counts"] == {"total": 1, "ok": 1, "error": 0, "cancelled": 0, "timeout": 0}
    assert texts(answer) == trained_reference.texts()[:1]


def test_a_seeded_batch_is_the_same_whatever_the_order_and_the_rank(service: Service) -> None:
    items = [{"custom_id": f"row-{index}", "prompt": f"Row {index} of many"} for index in range(20)]
    params = {"temperature": 1.0, "seed": 5, "max_tokens": 8}
    forward = service.batch(items, sampling_params=params)
    backward = service.batch(items[::-1], sampling_params=params)
    assert texts(forward) == texts(backward)[::-1]
    assert len(set(texts(forward))) > 10
    another = service.batch(items, sampling_params=params | {"seed": 6})
    assert texts(another) != texts(forward)


def test_metrics_of_both_engines_are_there_once_and_told_apart(service: Service) -> None:
    text = service.client.get("/metrics").text
    heads = [line for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(heads) == len(set(heads))
    for rank in ("0", "1"):
        assert f'vllm:num_requests_running{{engine="{rank}"' in text
    assert 'phalanx_rank_state{rank="0",state="ready"} 1.0' in text


def test_a_client_that_goes_away_frees_its_items_inside_vllm(service: Service) -> None:
    items = [{"prompt": f"Long {index}"} for index in range(1200)]  # more than can be done by the deadline
    with service.begin(items, sampling_params={"max_tokens": 2000, "ignore_eos": True}):
        until(lambda: all(rank["running"] for rank in service.ranks()), "both ranks run sequences")
    until(lambda: not any(rank["held"] or rank["running"] for rank in service.ranks()), "all is given up", 60)


def test_a_timeout_gives_what_is_finished_and_marks_the_rest(service: Service) -> None:
    items = [{"prompt": "Short", "sampling_params": {"max_tokens": 1}}] * 4
    items += [{"prompt": "Long", "sampling_params": {"max_tokens": 2000, "ignore_eos": True}}] * 900
    answer = service.batch(items, timeout_s=5)
    statuses = [result["status"] for result in answer["results"]]
    assert statuses[:4] == ["ok"] * 4
    assert "timeout" in statuses[4:]
