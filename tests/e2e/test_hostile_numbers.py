"""Numbers at the edges of their types on real vLLM, what its workers cannot hold, and seeds of any sign.

Each item runs or is refused by itself, and the rank lives on.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.edge_values import ITEMS
from tests.service import BATCH, Json, Service, as_object

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

CODES = {None, "invalid_prompt", "invalid_sampling_params", "context_length_exceeded"}
WORDS = [f"{number:02}" for number in range(64)]
STOPS = list(range(24, 24 + 128))  # the model's own end token comes to these


def run(service: Service, *params: Json) -> list[Json]:
    """The results of one prompt with each of these parameters."""
    items = [{"prompt": "Hello", "sampling_params": {"max_tokens": 8} | own} for own in params]
    results: list[Json] = service.batch(items)["results"]
    return results


def texts(result: Json) -> list[str]:
    assert result["status"] == "ok", result
    return [output["text"] for output in result["outputs"]]


def check_alive(service: Service) -> None:
    assert service.batch(["plain"], sampling_params={"max_tokens": 2})["request_counts"]["ok"] == 1
    assert [rank["incarnation"] for rank in service.ranks()] == [1]


@settings(max_examples=8, derandomize=True)
@given(st.lists(ITEMS, min_size=30, max_size=30))
def test_items_with_any_numbers_run_or_are_refused(one_rank: Service, items: list[str]) -> None:
    prompts = ",".join([*items, '"plain"'])
    body = f'{{"prompts":[{prompts}],"sampling_params":{{"max_tokens":2}}}}'
    answer = one_rank.client.post(BATCH, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    results = as_object(answer.text)["results"]
    assert {result.get("error", {}).get("code") for result in results} <= CODES
    assert results[-1]["status"] == "ok"
    check_alive(one_rank)


@pytest.mark.parametrize(
    ("name", "held", "too_much"),
    [
        ("stop_token_ids", {"stop_token_ids": STOPS[1:], "min_tokens": 1}, {"stop_token_ids": STOPS, "min_tokens": 1}),
        ("bad_words", {"bad_words": [w + " word" * 3 for w in WORDS]}, {"bad_words": [w + " word" * 4 for w in WORDS]}),
        ("logit_bias", {"logit_bias": {"5": 1e9, "6": -1e9}}, {"logit_bias": {"5": 1e10}}),
        ("repetition_penalty", {"repetition_penalty": 1e-9, "temperature": 0.01}, {"repetition_penalty": 1e-10}),
        ("top_p", {"top_p": 1e-9, "temperature": 1.0}, {"top_p": 1e-10}),
        ("seed", {"seed": 2**63 - 2, "n": 2, "temperature": 1.0}, {"seed": 2**63 - 1, "n": 2, "temperature": 1.0}),
    ],
)
def test_what_a_worker_cannot_hold_is_refused_and_a_little_less_runs(
    one_rank: Service, name: str, held: Json, too_much: Json
) -> None:
    runs, refused = run(one_rank, held, too_much)
    assert runs["status"] == "ok", runs
    assert refused["error"]["code"] == "invalid_sampling_params"
    assert refused["error"]["param"] == f"prompts[1].sampling_params.{name}"
    check_alive(one_rank)


def test_many_stop_tokens_are_fine_without_min_tokens(one_rank: Service) -> None:
    (result,) = run(one_rank, {"stop_token_ids": STOPS})
    assert result["status"] == "ok"


@pytest.mark.parametrize("seed", [0, 2**63 - 4, -5, -12345, -(2**63)])
def test_every_output_of_a_seed_is_the_same_in_every_call(one_rank: Service, seed: int) -> None:
    params: dict[str, Any] = {"seed": seed, "n": 4, "temperature": 1.0}
    first, again, next_seed = run(one_rank, params, params, params | {"seed": seed + 1, "n": 1 if seed == -5 else 3})
    assert texts(first) == texts(again)
    assert len(set(texts(first))) == 4
    assert texts(next_seed)[0] == texts(first)[1]


def test_minus_one_is_no_seed_for_any_output(one_rank: Service) -> None:
    params: dict[str, Any] = {"seed": -1, "n": 4, "temperature": 1.0, "max_tokens": 16}
    own = run(one_rank, params, params)
    batch_wide = [one_rank.batch(["Hello"], sampling_params=params)["results"][0] for _ in range(2)]
    assert len({text for result in (*own, *batch_wide) for text in texts(result)}) == 16
