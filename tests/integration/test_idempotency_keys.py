"""Batches with an Idempotency-Key: stored, answered as others, and known again."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.detached import SHORT, code, dispatched, ended, look, with_key
from tests.service import BATCH, Service, serving


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving("--log-level", "debug", "--keepalive-s", "0.2", dp_size=1, step_ms=5, max_num_seqs=16) as service:
        yield service


def test_a_key_stands_for_one_batch_and_its_body(service: Service) -> None:
    first, again = (with_key(service, "a", ["x", "y"], sampling_params=SHORT) for _ in range(2))
    assert first.status_code == 200 and first.json() == again.json()
    assert [result["index"] for result in first.json()["results"]] == [0, 1]
    assert look(service, first.json())["idempotency_key"] == "a"
    assert sorted(dispatched(service, first.json())) == [0, 1]
    assert code(with_key(service, "a", ["z"], sampling_params=SHORT)) == (422, "idempotency_key_reused")
    stream = with_key(service, "b", ["x", "y"], sampling_params=SHORT, stream=True)
    lines = [json.loads(line) for line in stream.text.splitlines()]
    assert [line["seq"] for line in lines if line["object"] == "batch_generation.result"] == [1, 2]
    assert lines[-1]["object"] == "batch_generation.summary"
    background = with_key(service, "c", ["x"], sampling_params=SHORT, background=True)
    assert background.status_code == 202
    ended(service, background.json())
    assert with_key(service, "c", ["x"], sampling_params=SHORT, background=True).json()["status"] == "completed"
    for key in ("", "x" * 256):
        assert code(with_key(service, key, ["x"])) == (400, "invalid_request")


def test_two_with_the_same_key_at_once_run_once(service: Service) -> None:
    def ask(_: int) -> httpx.Response:
        return with_key(service, "at once", ["x"] * 20, sampling_params=SHORT)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(4)))
    ids = {answer.json()["id"] for answer in answers if answer.status_code == 200}
    refused = [code(answer) for answer in answers if answer.status_code != 200]
    assert len(ids) == 1 and set(refused) <= {(409, "idempotency_key_in_use")}
    assert sorted(dispatched(service, {"id": ids.pop()})) == list(range(20))


def test_lines_with_a_key_are_stored_and_known_again(service: Service) -> None:
    head = {"object": "batch_generation.options", "sampling_params": SHORT}
    body = "\n".join([json.dumps(head), '"a"', "{broken", '"c"'])
    headers = {"Idempotency-Key": "lines", "Content-Type": "application/x-ndjson"}
    first, again = (service.client.post(BATCH, content=body, headers=headers) for _ in range(2))
    results = [json.loads(line) for line in again.text.splitlines()]
    by_index = {line["index"]: line for line in results if line["object"] == "batch_generation.result"}
    assert [by_index[index]["status"] for index in range(3)] == ["ok", "error", "ok"]
    assert json.loads(first.text.splitlines()[-1]) == results[-1]
    changed = service.client.post(BATCH, content=f'{body}\n"d"', headers=headers)
    assert code(changed) == (422, "idempotency_key_reused")


def test_a_reader_who_goes_away_cancels_nothing(service: Service) -> None:
    request = {"prompts": ["x"] * 3, "sampling_params": {"max_tokens": 60}}
    with service.client.stream("POST", BATCH, json=request | {"stream": True}, headers={"Idempotency-Key": "d"}) as _:
        pass
    with pytest.raises(httpx.ReadTimeout):
        service.client.post(BATCH, json=request, headers={"Idempotency-Key": "e"}, timeout=0.1)
    for key, more in (("d", {"stream": True}), ("e", {})):
        found = with_key(service, key, request["prompts"], sampling_params=request["sampling_params"], **more)
        assert found.text.count('"status":"ok"') == 3
    assert not service.facts("client_disconnected")
