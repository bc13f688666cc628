"""OpenAI's Batch API with its own package, on simulated ranks: from the upload of a file to the lines of another."""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch

from app.journal.place import FILE_NAME
from app.keys.key import KeyLimits
from app.keys.store import KeysFile
from tests.service import BATCH, Json, Service, serving, until

MODEL = "phalanx-simulated"
ENDPOINT = "/v1/completions"
MOST_LINES = 300


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving("--max-batch-lines", str(MOST_LINES), step_ms=2) as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with client_of(service) as client:
        yield client


def client_of(service: Service, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=key)


def line(number: int, endpoint: str = ENDPOINT, **body: Any) -> Json:
    request = {"model": MODEL, "prompt": f"number {number}", "max_tokens": 3} | body
    return {"custom_id": f"line-{number}", "method": "POST", "url": endpoint, "body": request}


def prompt_line(number: int, **body: Any) -> Json:
    request = {"prompt": f"number {number}", "sampling_params": {"max_tokens": 3}} | body
    return {"custom_id": f"line-{number}", "method": "POST", "url": BATCH, "body": request}


def create(client: openai.OpenAI, lines: Iterable[Json], endpoint: str = ENDPOINT, window: str = "24h") -> Batch:
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id,
        endpoint=endpoint,  # type: ignore[arg-type]  # more than OpenAI's own
        completion_window=window,  # type: ignore[arg-type]
        metadata={"for": "a test"},
    )


def ended(client: openai.OpenAI, batch: Batch) -> Batch:
    def look() -> Batch | None:
        found = client.batches.retrieve(batch.id)
        return found if found.status in ("completed", "failed", "expired", "cancelled") else None

    found: Batch = until(look, "the batch does not end", 30)
    return found


def lines_of(client: openai.OpenAI, file_id: str | None) -> dict[str, Json]:
    assert file_id is not None
    found = [json.loads(text) for text in client.files.content(file_id).text.splitlines()]
    by_id = {entry["custom_id"]: entry for entry in found}
    assert len(by_id) == len(found)
    return by_id


def priorities(folder: Path) -> set[int]:
    """Of all that the journal in a folder has."""
    with closing(sqlite3.connect(folder / FILE_NAME)) as journal:
        return {priority for (priority,) in journal.execute("SELECT priority FROM batches WHERE removed_at IS NULL")}


def test_every_line_is_answered_once(client: openai.OpenAI) -> None:
    batch = create(client, (line(number) for number in range(MOST_LINES)))
    assert (batch.status, batch.object, batch.metadata) == ("validating", "batch", {"for": "a test"})
    done = ended(client, batch)
    assert (done.status, done.model) == ("completed", MODEL)
    assert done.request_counts is not None
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (300, 300, 0)
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at  # type: ignore[operator]
    assert done.usage is not None
    assert done.usage.output_tokens == 900
    assert done.error_file_id is None
    output = lines_of(client, done.output_file_id)
    assert len(output) == 300
    alone = client.completions.create(model=MODEL, prompt="number 7", max_tokens=3)
    answer = output["line-7"]
    assert (answer["error"], answer["response"]["status_code"]) == (None, 200)
    assert answer["response"]["body"]["choices"][0]["text"] == alone.choices[0].text
    assert done.id in [found.id for found in client.batches.list()]
    with pytest.raises(openai.ConflictError, match="is not held"):
        client.post(f"/batches/{done.id}/resume", cast_to=Batch)


def test_a_line_that_is_refused_has_its_answer_in_the_error_file(client: openai.OpenAI) -> None:
    done = ended(client, create(client, [line(0), line(1, prompt=""), line(2, logprobs=2)]))
    assert done.status == "completed"
    assert done.request_counts is not None
    assert (done.request_counts.completed, done.request_counts.failed) == (1, 2)
    assert set(lines_of(client, done.output_file_id)) == {"line-0"}
    errors = lines_of(client, done.error_file_id)
    assert set(errors) == {"line-1", "line-2"}
    for entry in errors.values():
        assert (entry["error"], entry["response"]["status_code"]) == (None, 400)
        error = entry["response"]["body"]["error"]
        assert error["message"] and (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")


def test_where_every_line_fails_there_is_no_output_file(client: openai.OpenAI) -> None:
    done = ended(client, create(client, [line(0, prompt=""), line(1, prompt="")]))
    assert (done.status, done.output_file_id) == ("completed", None)
    assert len(lines_of(client, done.error_file_id)) == 2


def test_what_is_wrong_with_a_file_is_listed_by_line_and_nothing_runs(client: openai.OpenAI) -> None:
    wrong = [line(0), line(0), line(2) | {"url": "/v1/embeddings"}, line(3, model="another")]
    done = ended(client, create(client, wrong))
    assert done.status == "failed"
    assert done.errors is not None
    assert done.errors.data is not None
    found = [(problem.line, problem.code) for problem in done.errors.data]
    assert found == [(2, "duplicate_custom_id"), (3, "url_mismatch"), (4, "model_mismatch")]
    assert done.output_file_id is None
    done = ended(client, create(client, (line(number) for number in range(MOST_LINES + 1))))
    assert done.errors is not None
    assert done.errors.data is not None
    assert [(problem.line, problem.code) for problem in done.errors.data] == [(None, "too_many_tasks")]
    done = ended(client, create(client, [prompt_line(0, stream="yes"), prompt_line(1, custom_id="own")], BATCH))
    assert done.errors is not None
    assert done.errors.data is not None
    found = [(problem.line, problem.code, problem.param) for problem in done.errors.data]
    assert found == [(1, "stream_not_supported", "body.stream"), (2, "unknown_parameter", "body.custom_id")]


def test_chats_and_embeddings_run_in_batches(client: openai.OpenAI) -> None:
    chat = {"prompt": None, "messages": [{"role": "user", "content": "Hi"}]}
    lines = [line(0, "/v1/chat/completions", **chat)]
    del lines[0]["body"]["prompt"]
    done = ended(client, create(client, lines, "/v1/chat/completions"))
    assert lines_of(client, done.output_file_id)["line-0"]["response"]["body"]["object"] == "chat.completion"
    request = {"custom_id": "line-0", "method": "POST", "url": "/v1/embeddings", "body": {"model": MODEL, "input": "a"}}
    done = ended(client, create(client, [request], "/v1/embeddings"))
    assert lines_of(client, done.output_file_id)["line-0"]["response"]["body"]["data"][0]["embedding"]


def test_prompts_of_batch_generate_run_in_batches(service: Service, client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    lines = [
        prompt_line(0, model=MODEL, stream=False, metadata={"a": 1}),
        prompt_line(1, prompt=[7, 8, 9], sampling_params={"max_tokens": 2, "n": 2}),
        prompt_line(2, prompt=None, messages=messages),
        prompt_line(3, sampling_params=None),
    ]
    done = ended(client, create(client, lines, BATCH))
    assert (done.status, done.error_file_id) == ("completed", None)
    output = lines_of(client, done.output_file_id)
    found = [output[f"line-{number}"]["response"] for number in range(4)]
    assert {answer["status_code"] for answer in found} == {200}
    results = [answer["body"] for answer in found]
    (alone,) = service.batch(["number 0"], sampling_params={"max_tokens": 3})["results"]
    assert results[0]["outputs"] == alone["outputs"]
    assert results[0].keys() == alone.keys() | {"metadata"}
    assert (results[0]["object"], results[0]["status"], results[0]["metadata"]) == (alone["object"], "ok", {"a": 1})
    assert [(result["index"], result["custom_id"]) for result in results] == [(n, f"line-{n}") for n in range(4)]
    assert [len(result["outputs"]) for result in results] == [1, 2, 1, 1]
    assert done.usage is not None
    assert done.usage.output_tokens == sum(result["usage"]["completion_tokens"] for result in results)


def test_prompts_that_are_refused_or_fail_have_their_errors_in_the_error_file(client: openai.OpenAI) -> None:
    wrong = {
        "body.sampling_params.temperature": {"sampling_params": {"temperature": -1}},
        "body": {"messages": [{"role": "user", "content": "both"}]},
        "body.max_tokens": {"max_tokens": 3},
        "body.sampling_params.guided": {"sampling_params": {"guided": "x"}},
    }
    bodies = [*wrong.values(), {"prompt": [], "sampling_params": None}]
    done = ended(client, create(client, [prompt_line(number, **body) for number, body in enumerate(bodies)], BATCH))
    assert (done.status, done.output_file_id) == ("completed", None)
    assert done.request_counts is not None
    assert done.request_counts.failed == len(bodies)
    errors = lines_of(client, done.error_file_id)
    assert {(entry["error"], entry["response"]["status_code"]) for entry in errors.values()} == {(None, 400)}
    found = [errors[f"line-{number}"]["response"]["body"]["error"] for number in range(len(bodies))]
    assert [error["param"] for error in found] == [*wrong, "body"]
    for error in found:
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert "prompts[" not in error["message"]


def test_what_is_cancelled_or_expired_keeps_what_is_finished(client: openai.OpenAI) -> None:
    long = [line(number, max_tokens=3 if number < 20 else 6000) for number in range(60)]
    batch = create(client, long)

    def has_some() -> bool:
        counts = client.batches.retrieve(batch.id).request_counts
        return counts is not None and counts.completed >= 20

    until(has_some, "nothing is finished", 20)
    running = client.batches.retrieve(batch.id)
    assert len(lines_of(client, running.output_file_id)) >= 20  # readable while it runs
    client.batches.cancel(batch.id)
    done = ended(client, batch)
    assert (done.status, done.cancelling_at is not None) == ("cancelled", True)
    output, errors = lines_of(client, done.output_file_id), lines_of(client, done.error_file_id)
    assert output.keys() | errors.keys() == {f"line-{number}" for number in range(60)}
    assert {entry["error"]["code"] for entry in errors.values()} == {"batch_cancelled"}
    done = ended(client, create(client, long, window="2s"))
    assert (done.status, done.expired_at is not None) == ("expired", True)
    assert len(lines_of(client, done.output_file_id)) >= 20
    assert {entry["error"]["code"] for entry in lines_of(client, done.error_file_id).values()} == {"batch_expired"}


def test_batches_go_on_after_the_gateway_was_killed(tmp_path: Path) -> None:
    """Each line is answered once, and a line that has its answer does not run again. A batch whose file was being read
    keeps the priority of its key."""
    prompts, keys = tmp_path / "prompts", KeysFile(tmp_path / "keys.json")
    key = keys.create("patient", limits=KeyLimits(min_priority=5)).secret
    flags = ("--data-dir", str(tmp_path), "--api-keys-file", str(keys.path))
    with (
        serving(*flags, api_key=key, step_ms=5, prompts_file=str(prompts)) as service,
        client_of(service, key) as client,
    ):
        batch = create(client, (line(number, max_tokens=20) for number in range(2000)))

        def is_amid() -> bool:
            counts = client.batches.retrieve(batch.id).request_counts
            return counts is not None and counts.completed > 200

        until(is_amid, "it does not run", 20)
        had = lines_of(client, client.batches.retrieve(batch.id).output_file_id).keys()
        prompts.write_bytes(b"")
        unread = create(client, (line(number, prompt="unread") for number in range(5000)))
        service.process.kill()
        service.wait()
        time.sleep(0.5)
        service.start()
        service.wait_ready()
        with client_of(service, key) as again:
            until(lambda: again.batches.retrieve(unread.id).status == "in_progress", "its file is not read", 30)
            again.batches.cancel(unread.id)
            assert priorities(tmp_path) == {5}
            done = ended(again, batch)
            assert done.status == "completed"
            assert len(lines_of(again, done.output_file_id)) == 2000
        ran = {json.loads(text)["prompt"] for text in prompts.read_text().splitlines()} - {"unread"}
        assert not {prompt.replace("number ", "line-") for prompt in ran} & had


def test_what_is_asked_for_wrongly_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="upload it"):
        client.batches.create(input_file_id="file-none", endpoint=ENDPOINT, completion_window="24h")
    file = client.files.create(file=("a.txt", b"x"), purpose="user_data")
    with pytest.raises(openai.BadRequestError, match="purpose=batch"):
        client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="completion_window"):
        create(client, [line(0)], window="soon")
    with pytest.raises(openai.BadRequestError, match="endpoint"):
        create(client, [line(0)], endpoint="/v1/nothing")
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_none")
