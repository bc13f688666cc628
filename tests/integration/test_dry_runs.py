"""Dry runs: the tokens that a run would show, the errors that it would give, and nothing that runs."""

import os
import signal
from collections.abc import Iterator

import jsonschema
import pytest

from tests.service import STAYS_DOWN, Json, Service, serving, until

CONTEXT = 64
PROMPTS = [
    "Hello, my name is",
    [1, 2, 3],
    {"custom_id": "chat", "messages": [{"role": "user", "content": "Hi there, how are you?"}]},
    {"custom_id": "cut", "prompt": list(range(40)), "truncate_prompt_tokens": 7},
    {"custom_id": "as-much-as-fits", "prompt": list(range(200)), "truncate_prompt_tokens": -1},
    {"custom_id": "own", "prompt": "a", "sampling_params": {"n": 3, "max_tokens": 1000}},
    {"custom_id": "long", "prompt": list(range(200))},
    {"custom_id": "own", "prompt": "again"},
    {"custom_id": "wrong", "prompt": "a", "sampling_params": {"logprobs": 1}},
    {"custom_id": "neither"},
    "",
]
REFUSED = [6, 7, 8, 9, 10]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(
        "--max-batch-items", "2000", "--max-waiting-items", "2000", max_model_len=CONTEXT, seq_us=50
    ) as running:
        yield running


def dry_run(service: Service, prompts: object, **fields: object) -> Json:
    answer = service.post(prompts, dry_run=True, **fields)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def test_it_says_of_each_item_what_a_run_would(service: Service) -> None:
    params = {"max_tokens": 5}
    planned = dry_run(service, PROMPTS, sampling_params=params)
    document = service.client.get("/openapi.json").json()
    schema = {"$ref": "#/components/schemas/DryRun", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(planned)
    real = service.batch(PROMPTS, sampling_params=params)["results"]
    for item, result in zip(planned["items"], real, strict=True):
        assert (item["index"], item["custom_id"]) == (result["index"], result["custom_id"])
        assert item["prompt_tokens"] == result["usage"]["prompt_tokens"]
        assert item.get("error") == result.get("error")
        assert item["max_completion_tokens"] == result["usage"]["completion_tokens"], "the simulated engine uses it all"
    assert [item["index"] for item in planned["items"] if "error" in item] == REFUSED
    assert planned["items"][5]["max_completion_tokens"] == 3 * (CONTEXT - planned["items"][5]["prompt_tokens"])
    assert planned["request_counts"] == {"total": 11, "accepted": 6, "refused": 5}
    for name in ("prompt_tokens", "max_completion_tokens"):
        assert planned[name] == sum(item[name] for item in planned["items"]) > 0
    again = dry_run(service, PROMPTS, sampling_params=params)
    assert again["predicted_s"] > 0
    assert again["predicted_completion_tokens"] == again["max_completion_tokens"], "as what has run used it all"


def test_nothing_runs_and_nothing_waits(service: Service) -> None:
    before = service.metric("phalanx_items_total"), sum(rank["steps"] for rank in service.ranks())
    planned = dry_run(service, [[1] * (1 + index % 50) for index in range(2000)])
    assert [item["prompt_tokens"] for item in planned["items"]] == [1 + index % 50 for index in range(2000)]
    assert service.is_idle()
    assert (service.metric("phalanx_items_total"), sum(rank["steps"] for rank in service.ranks())) == before
    assert service.metric("phalanx_held_bytes") == 0


def test_it_has_the_bounds_of_a_batch_and_needs_no_room(service: Service) -> None:
    refused = service.post(["a"] * 2001, dry_run=True)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "batch_too_large")
    with service.begin([[1]] * 2000, sampling_params={"max_tokens": 60, "n": 20}):
        until(lambda: service.backlog > 0, "nothing waits")
        assert service.post(["a"] * 2000).status_code == 429
        assert dry_run(service, ["a"] * 2000)["request_counts"]["accepted"] == 2000
    until(service.is_idle, "the batch is not given up")


def test_a_lost_ranks_count_is_anothers_and_with_none_left_it_is_503() -> None:
    with serving(*STAYS_DOWN) as service:
        service.errors_expected = True
        planned = dry_run(service, ["a"])  # from here on the parameters are known
        assert (planned["predicted_s"], planned["predicted_completion_tokens"]) == (None, None), "nothing has run yet"
        first, second = (rank["pid"] for rank in service.ranks())
        os.kill(first, signal.SIGSTOP)
        os.kill(second, signal.SIGSTOP)
        with service.begin(["a"], dry_run=True) as pending:
            service.health()  # answered after the dry run has come in, most likely: the outcome is the same
            os.kill(first, signal.SIGKILL)
            os.kill(second, signal.SIGCONT)
            status, answer = pending.outcome()
            assert (status, answer["request_counts"]["accepted"]) == (200, 1)
        os.kill(second, signal.SIGSTOP)
        with service.begin(["a"], dry_run=True) as pending:
            service.health()  # answered after the dry run has come in, most likely: the outcome is the same
            os.kill(second, signal.SIGKILL)
            status, answer = pending.outcome()
            assert (status, answer["error"]["code"]) == (503, "no_rank_ready")
