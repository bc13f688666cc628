"""Answers as streams: every item has one line as soon as it is done, whatever happens, and the summary is the last."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from app.api.examples import REQUESTS
from tests.raw_client import HEAD, Raw
from tests.service import BATCH, Json, Service, serving, until
from tests.stream_client import PROGRESS, RESULT, SUMMARY, Stream, results_of

PACE = {"step_ms": 10, "max_num_seqs": 4}
CAPACITY = 6  # sequences that a rank holds: four run, two are at hand
FLAGS = ("--prefetch", "2", "--drain-timeout-s", "1", "--keepalive-s", "50ms", "--restart-backoff-s", "50ms")
LONG, SHORT = {"max_tokens": 8000}, {"max_tokens": 2}  # 80 s and 20 ms
SOON_S = 30.0


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(*FLAGS, **PACE) as service:
        service.errors_expected = True  # a rank is killed
        yield service


@pytest.fixture(autouse=True)
def idle_again(service: Service) -> Iterator[None]:
    """Every test ends with nothing on the ranks, and nothing held."""
    yield
    until(service.is_idle, "something is still there", SOON_S)
    until(lambda: service.metric("phalanx_held_bytes") == 0, "memory is held", SOON_S)


def lines_of(service: Service, prompts: object, **fields: Any) -> list[Json]:
    with Stream(service, prompts, **fields) as stream:
        return list(stream)


# ---------------------------------------------------------------- lines


def test_a_stream_has_what_the_answer_at_once_has(service: Service) -> None:
    prompts: list[Any] = [
        "a",
        {"prompt": "b", "custom_id": "two", "metadata": {"row": 2}},
        5,
        {"prompt": ""},
        [1, 2, 3],
    ]
    fields = {"sampling_params": {"max_tokens": 5, "seed": 7}, "return_prompt": True}
    lines = lines_of(service, prompts, **fields)
    document = service.client.get("/openapi.json").json()
    schema = {"$ref": "#/components/schemas/BatchLine", "components": document["components"]}
    for line in lines:
        jsonschema.Draft202012Validator(schema).validate(line)
    at_once = service.batch(prompts, **fields)
    for result in (*lines, *at_once["results"]):
        result.pop("rank", None)
    results = sorted(results_of(lines, len(prompts)), key=lambda result: result["index"])
    assert results == at_once["results"]
    summary = lines[-1]
    assert set(summary) == set(at_once) - {"results"}
    assert (summary["usage"], summary["model"]) == (at_once["usage"], at_once["model"])
    assert summary["stats"]["ranks"]


def test_what_was_sent_on_many_lines_comes_back_on_one(service: Service) -> None:
    metadata = {"rows": [1, {"of": "a\u2028b"}]}
    prompt = {"prompt": "a\x85", "metadata": metadata, "sampling_params": SHORT}
    request = {"prompts": [prompt], "stream": True, "return_prompt": True}
    body = json.dumps(request, indent=1, ensure_ascii=False).encode()
    with service.client.stream("POST", BATCH, content=body, headers={"Content-Type": "application/json"}) as answer:
        lines = [json.loads(line) for line in answer.iter_lines()]
    (result,) = results_of(lines, 1)
    assert (result["prompt"], result["metadata"]) == ("a\x85", metadata)


def test_each_result_comes_as_soon_as_it_is_there(service: Service) -> None:
    prompts = [{"prompt": "a", "sampling_params": {"max_tokens": tokens}} for tokens in (8000, 40, 1)]
    with Stream(service, prompts) as stream:
        assert [stream.next(RESULT)["index"] for _ in range(2)] == [2, 1]
        assert sum(service.held) == 1


def test_many_items_all_have_one_line(service: Service) -> None:
    results_of(lines_of(service, ["a"] * 500, sampling_params={"max_tokens": 1}), 500)


def test_the_accept_header_asks_for_a_stream_too(service: Service) -> None:
    accept = {"Accept": "application/x-ndjson"}
    results_of(lines_of(service, ["a"], headers=accept, stream=None, sampling_params=SHORT), 1)
    plain = service.post(["a"], stream=False, sampling_params=SHORT)
    assert plain.headers["content-type"] == "application/json"


def test_the_documented_stream_runs(service: Service) -> None:
    example = REQUESTS["stream"]["value"]
    results_of(lines_of(service, **example), len(example["prompts"]))


def test_the_id_comes_at_once_and_progress_whenever_nothing_else_does(service: Service) -> None:
    with Stream(service, ["a"] * 20, sampling_params={"max_tokens": 40}) as stream:
        first, second, *rest = stream
    assert (first["object"], first["id"]) == (PROGRESS, rest[-1]["id"])
    assert first["request_counts"] == {"total": 20, "ok": 0, "error": 0, "cancelled": 0, "timeout": 0}
    assert first["running"] + first["waiting"] == 20
    assert (second["object"], second["running"], second["waiting"]) == (PROGRESS, 2 * CAPACITY, 20 - 2 * CAPACITY)
    done = 0
    for line in rest[:-1]:
        done += line["object"] == RESULT
        assert line["object"] == RESULT or line["request_counts"]["ok"] == done


def test_a_batch_of_nothing_but_bad_prompts_is_streamed_too(service: Service) -> None:
    results = results_of(lines_of(service, [1, None, {}]), 3)
    assert {result["error"]["code"] for result in results} == {"invalid_prompt"}


def test_a_client_of_http_1_0_reads_to_the_end_of_the_connection(service: Service) -> None:
    request = b'{"prompts":["a","b"],"sampling_params":{"max_tokens":20},"stream":true}'
    with Raw(service) as client:
        client.send(HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Content-Length: %d\r\n\r\n" % len(request) + request)
        body = client.rest().partition(b"\r\n\r\n")[2]
    results_of([json.loads(line) for line in body.splitlines()], 2)


def test_the_connection_serves_the_next_request_after_a_stream(service: Service) -> None:
    for _ in range(3):
        body = service.post(["a"], stream=True, sampling_params=SHORT).text
        results_of([json.loads(line) for line in body.splitlines()], 1)


# ---------------------------------------------------------------- ends


def test_a_client_that_goes_away_frees_the_ranks(service: Service) -> None:
    before = service.metric("phalanx_items_total", status="cancelled")
    quick = {"prompt": "a", "sampling_params": {"max_tokens": 1}}
    with Stream(service, [quick, *["b"] * 39], sampling_params=LONG) as stream:
        assert stream.next(RESULT)["index"] == 0
        until(lambda: service.held == [CAPACITY, CAPACITY], "it does not run")
    until(service.is_idle, "its items are still there", SOON_S)
    until(lambda: service.metric("phalanx_items_total", status="cancelled") == before + 39, "it is not counted", SOON_S)


def test_a_timeout_gives_a_line_to_what_is_left(service: Service) -> None:
    quick = {"prompt": "a", "sampling_params": {"max_tokens": 1}}
    results = results_of(lines_of(service, [quick] * 4 + ["b"] * 3000, sampling_params=LONG, timeout_s=3), 3004)
    assert [result["status"] for result in results] == ["ok"] * 4 + ["timeout"] * 3000


def test_a_timeout_that_is_over_at_once_gives_whole_streams(service: Service) -> None:
    results_of(lines_of(service, ["a"] * 100, timeout_s=1e-9), 100)


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_that_are_killed_in_the_midst_cost_no_line(service: Service, rank: int) -> None:
    life = service.ranks()[rank]["incarnation"]
    with Stream(service, ["a"] * 60, sampling_params={"max_tokens": 50}) as stream:
        lines = [stream.next(PROGRESS), stream.next(RESULT)]
        os.kill(service.ranks()[rank]["pid"], signal.SIGKILL)
        lines += stream
    assert {result["status"] for result in results_of(lines, 60)} == {"ok"}
    until(lambda: service.ranks()[rank]["incarnation"] == life + 1, "nobody noticed")
    until(lambda: service.health()["status"] == "ok", "it does not come back")


def test_a_service_that_drains_finishes_its_streams() -> None:
    with serving(*FLAGS, **PACE) as service, Stream(service, ["a"] * 2000, sampling_params=LONG) as stream:
        until(lambda: service.held == [CAPACITY, CAPACITY], "it does not run")
        service.signal()
        results = results_of(list(stream), 2000)
        assert {result["error"]["code"] for result in results} == {"shutting_down"}
        assert service.wait() == 0
        service.check_nothing_left()


def test_a_stream_whose_gateway_dies_has_no_summary() -> None:
    with serving(*FLAGS, **PACE) as service, Stream(service, ["a"] * 40, sampling_params={"max_tokens": 50}) as stream:
        lines = [stream.next(RESULT)]
        service.signal(signal.SIGKILL)
        lines += stream
        assert SUMMARY not in {line["object"] for line in lines}
        service.wait()
        until(lambda: not service.processes(), "ranks are left")
