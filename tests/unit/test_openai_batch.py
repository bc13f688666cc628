"""What a batch is asked for with, how it is shown, and the lines of its files, beside OpenAI's own client's types."""

import json
from typing import Any, get_args

import msgspec
import openai.types
import pytest
from openai.types import batch_error, batch_usage

from app.batches.record import Label
from app.batches.results import ItemEnd
from app.errors import InvalidRequest
from app.journal.openai_records import StoredOpenAIBatch
from app.journal.records import Counts, StoredBatch, TokenUsage
from app.journal.states import BatchState, OpenAIBatchStatus
from app.openai_batches.batch_object import BatchObject, LineCounts, OpenAIUsage, shown
from app.openai_batches.creation import CreateBatch, OutputExpiry, parse_creation, window_s
from app.openai_batches.input_line import Problem, ProblemCode
from app.openai_batches.output_line import LineError, answered, is_output, refused, unanswered
from app.openai_batches.prompt_lines import PromptLineShape
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import Outcome, Result

ENDPOINTS = ("/v1/completions", "/v1/embeddings")
ASKED = {"input_file_id": "file-1", "endpoint": "/v1/completions", "completion_window": "24h"}


def parse(**fields: object) -> CreateBatch:
    return parse_creation(json.dumps(ASKED | fields).encode(), ENDPOINTS)


def test_what_is_asked_for_is_read() -> None:
    assert parse() == CreateBatch(input_file_id="file-1", endpoint="/v1/completions", completion_window="24h")
    found = parse(metadata={"run": "7"}, output_expires_after={"anchor": "created_at", "seconds": 3600})
    assert found.metadata == {"run": "7"}
    assert found.output_expires_after == OutputExpiry(anchor="created_at", seconds=3600)


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"endpoint": "/v1/models"}, "endpoint", "endpoint is '/v1/models': it may be /v1/completions, /v1/embeddings"),
        ({"input_file_id": None}, "input_file_id", "input_file_id: expected str"),
        ({"completion_window": "soon"}, "completion_window", "completion_window is 'soon': it must be such as 24h"),
        ({"metadata": {"a": 1}}, "metadata", "metadata"),
        ({"metadata": {"a" * 65: "b"}}, "metadata", "length <= 64"),
        ({"metadata": {"a": "b" * 513}}, "metadata", "length <= 512"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata", "length <= 16"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 60}},
            "output_expires_after.seconds",
            "output_expires_after.seconds: expected int >= 3600",
        ),
        ({"input_file": "file-1"}, "input_file", "did you mean 'input_file_id'?"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(fields: dict[str, object], param: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(**fields)
    assert said in refused.value.message and (refused.value.param or "").startswith(param)


@pytest.mark.parametrize(
    ("written", "seconds"), [("24h", 86400), ("90s", 90), ("1.5m", 90), ("7d", 604800), ("0.5s", 0.5)]
)
def test_a_window_is_any_time(written: str, seconds: float) -> None:
    assert window_s(written) == seconds


@pytest.mark.parametrize("written", ["", "24", "0h", "-1h", "24 h", "1w", "999999999d", "h", "24H", "٣h"])
def test_what_is_no_time_is_no_window(written: str) -> None:
    with pytest.raises(InvalidRequest, match="completion_window is"):
        window_s(written)


def test_a_batch_is_shown_with_the_fields_that_openais_client_knows() -> None:
    for ours, theirs in (
        (BatchObject, openai.types.Batch),
        (Problem, batch_error.BatchError),
        (LineCounts, openai.types.BatchRequestCounts),
        (OpenAIUsage, batch_usage.BatchUsage),
    ):
        assert set(ours.__struct_fields__) == set(theirs.model_fields)
    assert set(OpenAIBatchStatus) == set(get_args(openai.types.Batch.model_fields["status"].annotation))


STORED = StoredOpenAIBatch(
    id="batch_1",
    tenant="t",
    endpoint="/v1/completions",
    input_file_id="file-1",
    completion_window="24h",
    metadata=b'{"run":"7"}',
    created_at=1.9,
    expires_at=86401.9,
    ordinal=1,
    status=OpenAIBatchStatus.FAILED,
    run=None,
    output_file_id=None,
    error_file_id=None,
    errors=msgspec.json.encode([Problem(code=ProblemCode.URL_MISMATCH, line=3, message="line 3: ...", param="url")]),
    failed_at=2.9,
    in_progress_at=None,
    finalizing_at=None,
    completed_at=None,
    expired_at=None,
    cancelling_at=None,
    cancelled_at=None,
)


def as_openais_client_reads_it(batch: StoredOpenAIBatch, run: StoredBatch | None) -> openai.types.Batch:
    return openai.types.Batch.model_validate_json(msgspec.json.encode(shown(batch, run)), strict=True)


def test_openais_client_reads_a_batch_whose_file_is_wrong() -> None:
    read = as_openais_client_reads_it(STORED, None)
    assert (
        read.errors
        and read.errors.data
        and read.errors.data[0].to_dict()
        == {
            "code": "url_mismatch",
            "line": 3,
            "message": "line 3: ...",
            "param": "url",
        }
    )
    assert (read.status, read.created_at, read.expires_at, read.failed_at) == ("failed", 1, 86401, 2)
    assert read.metadata == {"run": "7"} and read.request_counts and read.request_counts.total == 0


def test_openais_client_reads_a_batch_with_its_run() -> None:
    progress = {"errors": None, "failed_at": None, "in_progress_at": 2.5, "output_file_id": "file-2"}
    running = msgspec.structs.replace(STORED, status=OpenAIBatchStatus.IN_PROGRESS, run=7, **progress)
    counts, usage = Counts(ok=4, error=1), TokenUsage(prompt_tokens=7, completion_tokens=5, cached_tokens=2)
    read = as_openais_client_reads_it(running, run_of(10, counts, usage))
    assert read.errors is None and read.model == "m" and read.output_file_id == "file-2" and read.in_progress_at == 2
    counted = read.request_counts
    assert counted and (counted.total, counted.completed, counted.failed) == (10, 4, 1)
    assert read.usage and (read.usage.total_tokens, read.usage.input_tokens_details.cached_tokens) == (12, 2)
    held = msgspec.structs.replace(run_of(10, counts, usage), state=BatchState.HELD, reason="no rank is left")
    errors = as_openais_client_reads_it(running, held).errors
    assert errors and errors.data and (errors.data[0].code, errors.data[0].message) == ("batch_held", "no rank is left")


def run_of(size: int, counts: Counts, usage: TokenUsage) -> StoredBatch:
    nothing = dict.fromkeys(("deadline_at", "expires_at", "body_digest", "reason", "started_at", "ended_at", "stats"))
    numbers = dict.fromkeys(("restarts_without_result", "last_seq", "stored_results", "stored_bytes"), 0)
    known: dict[str, Any] = {"id": "run", "tenant": "t", "model": "m", "created_at": 1.0, "ordinal": 7, "size": size}
    return StoredBatch(**known, state=BatchState.IN_PROGRESS, counts=counts, usage=usage, **nothing, **numbers)


# ---------------------------------------------------------------- lines of its files


def test_an_answer_is_spliced_into_its_line() -> None:
    line = answered("ü", 200, "req-1", b'{\n "text": "a\\nb",\r\n "x": 1.50}\n')
    assert b"\n" not in line and b'"x": 1.50' in line
    found = json.loads(line)
    assert list(found) == ["id", "custom_id", "response", "error"] and found["id"].startswith("batch_req_")
    assert found["custom_id"] == "ü" and found["error"] is None
    assert found["response"] == {"status_code": 200, "request_id": "req-1", "body": {"text": "a\nb", "x": 1.5}}


def test_a_refusal_is_an_answer_of_the_error_file() -> None:
    assert is_output(200) and not is_output(400) and not is_output(500)
    found = json.loads(refused("a", InvalidRequest("no", param="n", code="too_many"), "req-1"))
    error = {"message": "no", "type": "invalid_request_error", "param": "n", "code": "too_many"}
    assert found["response"] == {"status_code": 400, "request_id": "req-1", "body": {"error": error}}
    assert found["error"] is None


@pytest.mark.parametrize("end", ["\x85", "\u2028", "\u2029"])
def test_a_line_ends_only_where_it_ends(end: str) -> None:
    line = answered(f"a{end}", 200, "req-1", json.dumps({"text": f"b{end}"}, ensure_ascii=False).encode()).decode()
    assert len(line.splitlines()) == 1
    found = json.loads(line)
    assert (found["custom_id"], found["response"]["body"]) == (f"a{end}", {"text": f"b{end}"})


def test_what_is_no_json_is_a_string() -> None:
    assert json.loads(answered("a", 500, "r", b"a\n\xff", is_json=False))["response"]["body"] == "a\n\ufffd"
    assert json.loads(answered("a", 204, "r", b""))["response"]["body"] is None


def test_a_line_without_an_answer_says_why() -> None:
    found = json.loads(unanswered("a", LineError("batch_expired", "its time was over")))
    assert found["response"] is None
    assert found["error"] == {"code": "batch_expired", "message": "its time was over"}


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [("poisoned", 400, "invalid_request_error"), ("rank_lost", 503, "service_unavailable_error")],
)
def test_a_prompt_that_fails_is_an_answer_with_a_status_and_an_error(code: str, status: int, kind: str) -> None:
    result = Result(1, Outcome.ERROR, error=ItemError(ItemErrorCode(code), "it failed"))
    shape = PromptLineShape("batchgen-1")
    assert shape.status(result) == "error"
    line = json.loads(shape.encode(ItemEnd(3, Label("a"), "error", result, 0, 2, "prompts[3]")))
    assert (line["custom_id"], line["error"], line["response"]["request_id"]) == ("a", None, "batchgen-1-3")
    assert line["response"]["status_code"] == status
    error = line["response"]["body"]["error"]
    assert (error["message"], error["type"], error["code"], error["param"]) == ("it failed", kind, code, "body")


def test_a_prompt_without_an_answer_says_why() -> None:
    line = json.loads(PromptLineShape("batchgen-1").encode(ItemEnd(0, Label("a"), "cancelled", None, None, 0)))
    assert (line["response"], line["error"]["code"]) == (None, "batch_cancelled")
