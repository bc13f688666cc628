"""What openai's package gets from a server's files and batches, from the upload to the results."""

import json
import time
from typing import Any

import openai
from checking import Target, run_checks

FINISHED = ("completed", "failed", "expired", "cancelled")
DEADLINE_S = 120
POLL_S = 0.5
TIMEOUT_S = 60


def connect(target: Target) -> Any:
    """A client; untyped, because two versions of the package are checked by one program."""
    return openai.OpenAI(base_url=target.base_url, api_key=target.api_key, timeout=TIMEOUT_S)


def line(target: Target, custom_id: str, country: str, **fields: Any) -> dict[str, Any]:
    """A request of a batch."""
    question = [{"role": "user", "content": f"What is the capital of {country}?"}]
    body = {"model": target.model, "messages": question, "max_tokens": 24, "temperature": 0} | fields
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def upload(client: Any, lines: list[dict[str, Any]]) -> Any:
    content = "".join(json.dumps(entry) + "\n" for entry in lines).encode()
    return client.files.create(file=("requests.jsonl", content), purpose="batch")


def submit(client: Any, lines: list[dict[str, Any]], **fields: Any) -> Any:
    return client.batches.create(
        input_file_id=upload(client, lines).id, endpoint="/v1/chat/completions", completion_window="24h", **fields
    )


def finished(client: Any, batch_id: str) -> Any:
    """The batch, once it has ended."""
    deadline = time.monotonic() + DEADLINE_S
    while (batch := client.batches.retrieve(batch_id)).status not in FINISHED:
        assert time.monotonic() < deadline, batch
        time.sleep(POLL_S)
    return batch


def results(client: Any, file_id: str | None) -> dict[str, Any]:
    """Lines of a file of results, by their custom_id."""
    if file_id is None:
        return {}
    entries = [json.loads(text) for text in client.files.content(file_id).text.splitlines()]
    found = {entry["custom_id"]: entry for entry in entries}
    assert len(found) == len(entries), entries
    return found


def check_a_file_is_kept_listed_and_deleted(target: Target) -> None:
    target.needs("/v1/files")
    client = connect(target)
    file = upload(client, [line(target, "fr", "France")])
    assert file.object == "file" and file.purpose == "batch" and file.filename == "requests.jsonl", file
    content = client.files.content(file.id).read()
    assert json.loads(content)["custom_id"] == "fr" and file.bytes == len(content), file
    assert client.files.retrieve(file.id).id == file.id
    assert file.id in [listed.id for listed in client.files.list(purpose="batch")]
    assert client.files.delete(file.id).deleted is True
    try:
        client.files.retrieve(file.id)
    except openai.NotFoundError:
        return
    raise AssertionError("a deleted file is still there")


def check_a_batch_runs_from_end_to_end(target: Target) -> None:
    target.needs("/v1/batches")
    client = connect(target)
    countries = {"fr": "France", "jp": "Japan", "it": "Italy", "es": "Spain"}
    lines = [line(target, custom_id, country) for custom_id, country in countries.items()]
    batch = submit(client, [*lines, line(target, "bad", "Peru", temperature=-1)], metadata={"purpose": "a test"})
    assert batch.object == "batch" and batch.metadata == {"purpose": "a test"}, batch
    assert batch.id in [listed.id for listed in client.batches.list(limit=20)]
    batch = finished(client, batch.id)
    assert batch.status == "completed" and batch.completed_at >= batch.created_at, batch
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (5, 4, 1), counts
    good, bad = results(client, batch.output_file_id), results(client, batch.error_file_id)
    assert set(good) == set(countries) and set(bad) == {"bad"}, (good, bad)
    assert all(entry["response"]["status_code"] == 200 for entry in good.values()), good
    assert "Paris" in good["fr"]["response"]["body"]["choices"][0]["message"]["content"], good
    assert bad["bad"]["response"]["status_code"] == 400, bad


def check_a_batch_is_cancelled(target: Target) -> None:
    target.needs("/v1/batches")
    client = connect(target)
    long = {"max_tokens": 400, "ignore_eos": True}
    batch = submit(client, [line(target, f"line-{number}", "France", **long) for number in range(600)])
    while client.batches.retrieve(batch.id).status == "validating":  # it has no lines before that
        time.sleep(0.1)
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    batch = finished(client, batch.id)
    assert batch.status == "cancelled" and batch.request_counts.total == 600, batch


def check_a_batch_without_its_file_is_refused(target: Target) -> None:
    target.needs("/v1/batches")
    asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    try:
        batch = connect(target).batches.create(input_file_id="file-that-is-not-there", **asked)
    except (openai.NotFoundError, openai.BadRequestError):
        return
    raise AssertionError(f"it is taken: {batch}")


if __name__ == "__main__":
    run_checks(globals())
