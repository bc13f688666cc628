"""What a client gets: shape and order of an answer, errors of single prompts, seeds, and what /openapi.json says."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families

from app.api.examples import REQUESTS
from app.batches.request import BatchRequest, PromptObject
from app.batches.seeds import derive_seed
from tests.service import COMMAND, Json, Service, serving

CHAT = [{"role": "user", "content": "What is the capital of France?"}]
MIXED: list[Any] = [
    "Hello, my name is",
    [1, 15043, 29892],
    {"custom_id": "fr-1", "prompt": "The capital of France is", "sampling_params": {"max_tokens": 7}},
    {"custom_id": "chat-1", "messages": CHAT, "chat_template_kwargs": {"enable_thinking": False}, "metadata": {"a": 1}},
    {"prompt": [5, 6, 7, 8], "truncate_prompt_tokens": 2},
    {"prompt": "été", "sampling_params": {"n": 3}},
]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as service:
        yield service


@pytest.fixture(scope="module")
def document(service: Service) -> Json:
    found: Json = service.client.get("/openapi.json").json()
    return found


def check(document: Json, component: str, value: object) -> None:
    """Fails where a value is not what /openapi.json says."""
    schema = {"$ref": f"#/components/schemas/{component}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


def texts(answer: Json) -> list[list[str]]:
    return [[output["text"] for output in result["outputs"]] for result in answer["results"]]


# ---------------------------------------------------------------- answers


def test_an_answer_has_one_result_per_prompt_in_their_order(service: Service, document: Json) -> None:
    answer = service.batch(MIXED, sampling_params={"max_tokens": 5})
    check(document, "BatchAnswer", answer)
    results = answer["results"]
    assert [result["index"] for result in results] == list(range(len(MIXED)))
    assert [result["status"] for result in results] == ["ok"] * len(MIXED)
    assert [result["custom_id"] for result in results] == [None, None, "fr-1", "chat-1", None, None]
    assert [result["usage"]["completion_tokens"] for result in results] == [5, 5, 7, 5, 5, 15]
    assert [result["usage"]["prompt_tokens"] for result in results][1] == 3
    assert results[4]["usage"]["prompt_tokens"] == 2
    assert [output["index"] for output in results[5]["outputs"]] == [0, 1, 2]
    assert results[3]["metadata"] == {"a": 1} and "metadata" not in results[0]
    assert {result["rank"] for result in results} == {0, 1}
    assert {result["attempts"] for result in results} == {1}
    assert all("token_ids" not in output for result in results for output in result["outputs"])
    assert answer["object"] == "batch_generation" and answer["model"] == "phalanx-simulated"
    assert answer["request_counts"] == {"total": 6, "ok": 6, "error": 0, "cancelled": 0, "timeout": 0}
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert answer["usage"][name] == sum(result["usage"][name] for result in results)
    assert sum(share["items"] for share in answer["stats"]["ranks"]) == 6
    assert answer["stats"]["stopped_by_length"] == 8


def test_one_prompt_is_a_batch(service: Service) -> None:
    answer = service.batch(["Hello"], return_token_ids=True, sampling_params={"max_tokens": 3})
    (result,) = answer["results"]
    assert len(result["outputs"][0]["token_ids"]) == 3
    assert len(answer["stats"]["ranks"]) == 1


def test_prompts_are_handed_back_as_they_were_sent_if_asked_for(service: Service, document: Json) -> None:
    refused: list[Any] = [5, {}, [1] * 9000, {"prompt": "a", "sampling_params": {"n": 0}}]
    prompts = [*MIXED, *refused]
    answer = service.batch(prompts, return_prompt=True, sampling_params={"max_tokens": 2})
    check(document, "BatchAnswer", answer)
    sent = [prompt.get("prompt", prompt.get("messages")) if isinstance(prompt, dict) else prompt for prompt in prompts]
    assert [result["prompt"] for result in answer["results"]] == sent
    assert [result["status"] for result in answer["results"]] == ["ok"] * len(MIXED) + ["error"] * len(refused)
    for unasked in ({}, {"return_prompt": False}, {"return_prompt": None}):
        assert all("prompt" not in result for result in service.batch(prompts, **unasked)["results"])


def test_an_items_prompt_is_handed_back_when_its_time_is_up(service: Service) -> None:
    answer = service.batch(["a"] * 2000, return_prompt=True, timeout_s=0.001)
    assert answer["request_counts"]["timeout"] > 0
    assert all(result["prompt"] == "a" for result in answer["results"])


def test_twenty_thousand_prompts_are_one_too(service: Service) -> None:
    answer = service.batch([f"prompt {number}" for number in range(20_000)], sampling_params={"max_tokens": 4})
    assert [result["index"] for result in answer["results"]] == list(range(20_000))
    assert answer["request_counts"]["ok"] == 20_000
    shares = [share["items"] for share in answer["stats"]["ranks"]]
    assert sum(shares) == 20_000 and min(shares) > 0  # who is faster does more


@pytest.mark.parametrize("name", [name for name in REQUESTS if "stream" not in REQUESTS[name]["value"]])
def test_the_examples_of_the_documentation_run(service: Service, document: Json, name: str) -> None:
    example = REQUESTS[name]["value"]
    check(document, "BatchRequest", example)
    answer = service.batch(**example)
    counts = answer["request_counts"]
    assert counts["accepted" if example.get("dry_run") else "ok"] == len(example["prompts"])


def test_many_clients_get_their_own_answers(service: Service) -> None:
    def ask(number: int) -> bool:
        prompts = [{"prompt": "x", "custom_id": f"{number}-{item}"} for item in range(5)]
        answer = service.batch(prompts, sampling_params={"max_tokens": 3})
        return [result["custom_id"] for result in answer["results"]] == [prompt["custom_id"] for prompt in prompts]

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(ask, range(200)))
    assert service.is_idle()


# ---------------------------------------------------------------- errors of single prompts

BAD: list[tuple[Any, str, str]] = [
    # prompt, code, param after prompts[index]
    (7, "invalid_prompt", ""),
    ({"prompt": "a", "messages": CHAT}, "invalid_prompt", ""),
    ({"prompt": "a", "max_tokens": 5}, "invalid_prompt", ".max_tokens"),
    ({"messages": [{"content": "no role"}]}, "invalid_prompt", ""),
    ("", "invalid_prompt", ""),
    ([-1], "invalid_prompt", ""),
    ([1, "2"], "invalid_prompt", ""),
    ([1] * 9000, "context_length_exceeded", ""),
    ({"prompt": "a", "sampling_params": {"top_p": "x"}}, "invalid_sampling_params", ".sampling_params.top_p"),
    ({"prompt": "a", "sampling_params": {"top_p": 5}}, "invalid_sampling_params", ".sampling_params.top_p"),
    ({"prompt": "a", "custom_id": "good"}, "duplicate_custom_id", ".custom_id"),
]


def test_bad_prompts_have_errors_of_their_own_and_their_neighbours_run(service: Service, document: Json) -> None:
    prompts: list[Any] = [{"prompt": "good", "custom_id": "good"}]
    for bad, _, _ in BAD:
        prompts += [bad, "good"]
    answer = service.batch(prompts, sampling_params={"max_tokens": 2})
    check(document, "BatchAnswer", answer)
    assert [result["status"] for result in answer["results"]] == ["ok"] + ["error", "ok"] * len(BAD)
    for number, (_, code, place) in enumerate(BAD):
        result = answer["results"][2 * number + 1]
        error = result["error"]
        assert (error["code"], error["param"]) == (code, f"prompts[{result['index']}]{place}")
        assert error["retryable"] is False and error["message"]
        assert result["outputs"] == []
    assert answer["request_counts"] == {
        "total": len(prompts),
        "ok": len(BAD) + 1,
        "error": len(BAD),
        "cancelled": 0,
        "timeout": 0,
    }


def test_a_batch_of_nothing_but_bad_prompts_is_answered_too(service: Service) -> None:
    answer = service.batch([1, None, {}])
    assert answer["request_counts"]["error"] == 3
    assert answer["stats"]["ranks"] == [] and answer["stats"]["balance_ratio"] is None


def test_bytes_that_are_no_text_spoil_one_prompt_only(service: Service) -> None:
    body = b'{"prompts":["a",{"prompt":"b","metadata":"\xff"},"\xfe","d"]}'
    answer = service.client.post("/v1/batch_generate", content=body, headers={"Content-Type": "application/json"})
    assert [result["status"] for result in answer.json()["results"]] == ["ok", "error", "error", "ok"]


# ---------------------------------------------------------------- values


def test_null_is_the_same_as_absence_in_every_field(service: Service) -> None:
    prompt = dict.fromkeys(PromptObject.__struct_fields__) | {"prompt": "a"}
    batch = dict.fromkeys(BatchRequest.__struct_fields__) | {"prompts": [prompt]}
    answer = service.batch(**batch)
    assert [texts(answer), answer["usage"]] == [texts(service.batch(["a"])), service.batch(["a"])["usage"]]


@pytest.mark.parametrize("timeout_s", [5e-324, 1e-9, 86400])
@pytest.mark.parametrize("priority", [-(2**31) + 1, 2**31 - 1])
def test_times_and_priorities_at_their_edges_are_kept(service: Service, timeout_s: float, priority: int) -> None:
    (result,) = service.batch(["a"], timeout_s=timeout_s, priority=priority)["results"]
    assert result["status"] in ("ok", "timeout")
    assert timeout_s < 1 or result["status"] == "ok"


# ---------------------------------------------------------------- seeds


def test_a_seed_gives_the_same_text_on_any_rank_and_in_any_place(service: Service) -> None:
    prompts = [{"prompt": "Once upon a time", "custom_id": f"story-{number}"} for number in range(20)]
    params = {"seed": 42, "max_tokens": 8}
    first = texts(service.batch(prompts, sampling_params=params))
    assert first == texts(service.batch(prompts, sampling_params=params))
    assert first == texts(service.batch(prompts[::-1], sampling_params=params))[::-1]
    assert len({text for (text,) in first}) == 20
    assert first != texts(service.batch(prompts, sampling_params=params | {"seed": 43}))


def test_the_published_hash_is_what_an_item_gets(service: Service) -> None:
    derived = service.batch(["a", {"prompt": "a", "custom_id": "x"}], sampling_params={"seed": 42})
    own = [
        {"prompt": "a", "sampling_params": {"seed": derive_seed(42, None, 0)}},
        {"prompt": "a", "sampling_params": {"seed": derive_seed(42, "x", 1)}},
    ]
    assert texts(derived) == texts(service.batch(own))


# ---------------------------------------------------------------- the other routes


def test_the_documentation_is_valid_and_there(service: Service, document: Json) -> None:
    validate(document)
    assert service.client.get("/docs").status_code == 200


@pytest.mark.parametrize(
    ("path", "component"),
    [
        ("/health", "Health"),
        ("/health/ready", "Health"),
        ("/health/live", "Alive"),
        ("/v1/ranks", "RankList"),
        ("/v1/ranks/1", "RankView"),
        ("/v1/models", "ModelList"),
    ],
)
def test_a_route_answers_what_it_says(service: Service, document: Json, path: str, component: str) -> None:
    answer = service.client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    check(document, component, answer.json())


def test_a_ready_service_says_so(service: Service) -> None:
    health = service.health()
    assert (health["status"], health["ready_ranks"], health["reason"]) == ("ok", 2, "all ranks are ready")
    assert service.client.get("/health/live").json()["pid"] == service.process.pid
    assert service.client.get("/v1/models").json()["data"][0]["id"] == "phalanx-simulated"
    for number, rank in enumerate(service.ranks()):
        assert (rank["rank"], rank["state"], rank["incarnation"], rank["engine"]) == (number, "ready", 1, "simulated")
        assert (rank["group_kind"], rank["group"], rank["restarts"]) == ("replicas", number, 0)


def test_the_ranks_can_be_seen_in_a_terminal(service: Service) -> None:
    shown = subprocess.run([COMMAND, "ranks", "--url", service.url], capture_output=True, text=True, check=True).stdout
    for rank in service.ranks():
        assert any(line.split()[:2] == [str(rank["rank"]), "ready"] for line in shown.splitlines())
        assert str(rank["pid"]) in shown


def test_metrics_hold_the_gateways_and_every_engines_each_family_once(service: Service) -> None:
    before = service.metric("phalanx_items_total", status="ok")
    service.batch(["a", "b", 3], sampling_params={"max_tokens": 2})
    answer = service.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    heads = [line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert {"phalanx_build_info", "phalanx_rank_state", "simulated:engine_steps"} <= set(families)
    assert {sample.labels["engine"] for sample in families["simulated:engine_steps"].samples} == {"0", "1"}
    assert service.metric("phalanx_items_total", status="ok") == before + 2
    assert service.metric("phalanx_http_requests_total", route="/v1/batch_generate", status="200") >= 1
    assert service.metric("phalanx_rank_state", state="ready") == 2
