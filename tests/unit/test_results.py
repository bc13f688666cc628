"""An item's result as a client reads it, and the answer that results are spliced into."""

from typing import Any

import msgspec
import pytest
from batch_bench import expecting, make_items, make_run

from app.api.attached_response import PIECE_BYTES, pieces
from app.api.batch_response import body
from app.batches.memory import HeldBytes
from app.batches.record import NO_LABEL, BatchRecord, Label
from app.batches.results import ItemEnd, encode_result
from app.batches.results_in_memory import ResultsInMemory
from app.batches.run import BatchRun
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import Outcome, Result

Run = BatchRun[ResultsInMemory]
OUTPUTS = b'[{"index":0,"text":"x","finish_reason":"stop","stop_reason":null}]'
NO_USAGE = {
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "total_tokens": 0,
    "prompt_tokens_details": {"cached_tokens": 0},
}


def decoded(raw: bytes) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(raw)
    return found


def make_batch(size: int) -> tuple[Run, list[Run]]:
    """A batch whose items are on rank 0, and the list that it enters when it is done."""
    ended: list[Run] = []
    run = make_run(size, on_done=ended.append)
    for item in make_items(run, max_tokens=5):
        item.attempts = 1
        run.item_started(item, 0)
    return run, ended


def answer(batch: Run) -> dict[str, Any]:
    return decoded(b"".join(body(batch)))


# ---------------------------------------------------------------- one result


def test_an_answered_item_has_its_outputs_and_usage() -> None:
    result = Result(1, Outcome.OK, OUTPUTS, prompt_tokens=7, completion_tokens=3, cached_tokens=4)
    found = encode_result(ItemEnd(2, Label("fr-1", b'{"row": 17}'), "ok", result, 1, 1))
    assert OUTPUTS in found  # spliced in as they came
    assert decoded(found) == {
        "object": "batch_generation.result",
        "index": 2,
        "custom_id": "fr-1",
        "status": "ok",
        "outputs": msgspec.json.decode(OUTPUTS),
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
        "rank": 1,
        "attempts": 1,
        "metadata": {"row": 17},
    }


def test_a_prompt_is_handed_back_byte_for_byte() -> None:
    for prompt in (b'"\\u00e9t\\u00E9"', b"[1,  2,3.0]", b'[{"role":"user", "content":"a"}]', b"null"):
        assert b'"prompt":' + prompt + b"," in encode_result(ItemEnd(0, Label(prompt=prompt), "timeout", None, None, 0))


def test_prompts_that_are_handed_back_count_as_held() -> None:
    held = HeldBytes(10**6, lambda: 0.0)
    run = expecting(BatchRun(BatchRecord("a-model", 0), ResultsInMemory(1, held.open()), lambda _: None), 1)
    (item,) = make_items(run)
    run.record.labels[0] = Label(prompt=b'"%s"' % (b"x" * 5000))
    run.item_started(item, 0)
    run.item_finished(item, Result(1, Outcome.OK, OUTPUTS), 0)
    assert held.total == len(run.sink.read(0)) > 5000
    run.sink.release()
    assert held.total == 0


def test_an_item_that_never_ran_has_no_outputs_and_no_usage() -> None:
    assert decoded(encode_result(ItemEnd(0, NO_LABEL, "timeout", None, None, 0))) == {
        "object": "batch_generation.result",
        "index": 0,
        "custom_id": None,
        "status": "timeout",
        "outputs": [],
        "usage": NO_USAGE,
        "rank": None,
        "attempts": 0,
    }


def test_logprobs_of_the_prompt_stand_beside_the_outputs() -> None:
    found = decoded(encode_result(ItemEnd(0, NO_LABEL, "ok", Result(1, Outcome.OK, prompt_logprobs=b"[null]"), 0, 1)))
    assert (found["prompt_logprobs"], found["outputs"]) == ([None], [])


@pytest.mark.parametrize(
    ("param", "place", "shown"),
    [
        ("sampling_params.top_p", "prompts[3]", "prompts[3].sampling_params.top_p"),
        (None, "prompts[3]", "prompts[3]"),
        ("prompts[3].prompt", "", "prompts[3].prompt"),
        (None, "", None),
    ],
)
def test_an_errors_param_is_the_full_place(param: str | None, place: str, shown: str | None) -> None:
    error = ItemError(ItemErrorCode.INVALID_SAMPLING_PARAMS, "no", param)
    result = Result(1, Outcome.ERROR, OUTPUTS, error=error)
    found = decoded(encode_result(ItemEnd(3, NO_LABEL, "error", result, 0, 1, place)))
    assert found["outputs"] == []  # an error never has any
    assert found["error"] == {
        "code": "invalid_sampling_params",
        "message": "no",
        "param": shown,
        "retryable": False,
    }


@pytest.mark.parametrize("code", ItemErrorCode)
def test_every_error_code_says_whether_to_try_again(code: ItemErrorCode) -> None:
    result = Result(1, Outcome.ERROR, error=ItemError(code, "why"))
    found = decoded(encode_result(ItemEnd(0, NO_LABEL, "error", result, None, 0)))["error"]
    assert (found["code"], found["message"]) == (code.value, "why")
    retryable = ("invalid_structured_output", "rank_lost", "engine_error", "shutting_down")
    assert found["retryable"] is (code.value in retryable)


# ---------------------------------------------------------------- the whole answer


def test_results_stand_in_the_order_of_the_prompts_however_they_came() -> None:
    batch, ended = make_batch(3)
    items = batch.items
    for index in (2, 0, 1):
        assert not ended
        batch.item_finished(items[index], Result(1, Outcome.OK, OUTPUTS, 5, 2, stopped_by_length=1), 0)
    assert ended == [batch] and batch.done.is_set()
    found = answer(batch)
    assert list(found) == ["id", "object", "model", "created_at", "results", "request_counts", "usage", "stats"]
    assert [result["index"] for result in found["results"]] == [0, 1, 2]
    assert found["request_counts"] == {"total": 3, "ok": 3, "error": 0, "cancelled": 0, "timeout": 0}
    assert found["usage"] == NO_USAGE | {"prompt_tokens": 15, "completion_tokens": 6, "total_tokens": 21}
    assert (found["stats"]["ranks"][0]["items"], found["stats"]["stopped_by_length"]) == (3, 3)
    assert (found["object"], found["model"]) == ("batch_generation", "a-model")


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_answers_of_any_size_are_whole(size: int) -> None:
    batch, _ = make_batch(size)
    batch.end("cancelled")
    assert [result["index"] for result in answer(batch)["results"]] == list(range(size))


@pytest.mark.parametrize("sizes", [[1], [PIECE_BYTES], [PIECE_BYTES - 1, 2], [3 * PIECE_BYTES + 5], [1] * 9, []])
def test_pieces_are_all_there_is_and_never_large(sizes: list[int]) -> None:
    parts = [bytes([index % 256]) * size for index, size in enumerate(sizes)]
    cut = list(pieces(parts))
    assert b"".join(cut) == b"".join(parts)
    assert all(len(piece) <= PIECE_BYTES for piece in cut)
    assert len(cut) == sum(sizes) // PIECE_BYTES + 1


def test_an_end_gives_every_open_item_its_result_and_keeps_the_others() -> None:
    batch, ended = make_batch(3)
    batch.record.labels[2] = Label("last", b"[1]")
    batch.item_finished(batch.items[1], Result(1, Outcome.OK, OUTPUTS), 0)
    batch.end("error", ItemError(ItemErrorCode.SHUTTING_DOWN, "bye"))
    found = answer(batch)
    assert [result["status"] for result in found["results"]] == ["error", "ok", "error"]
    assert found["results"][0]["error"]["code"] == "shutting_down"
    assert (found["results"][2]["custom_id"], found["results"][2]["metadata"]) == ("last", [1])
    assert found["results"][0]["attempts"] == 1
    assert found["request_counts"] == {"total": 3, "ok": 1, "error": 2, "cancelled": 0, "timeout": 0}
    assert ended == [batch]


def test_a_second_result_for_an_item_is_our_fault_and_not_passed_on() -> None:
    batch, _ = make_batch(2)
    batch.item_finished(batch.items[0], Result(1, Outcome.OK, OUTPUTS), 0)
    with pytest.raises(RuntimeError, match=r"item 0 of .* has a result already"):
        batch.refuse(0, ItemError(ItemErrorCode.INVALID_PROMPT, "no"))


def test_a_result_reads_the_same_however_often() -> None:
    batch, _ = make_batch(2)
    batch.record.labels.update({0: Label("first", b'{"row":1}'), 1: Label("last", None)})
    batch.item_finished(batch.items[0], Result(1, Outcome.OK, OUTPUTS), 0)
    batch.end("timeout")
    for index, custom_id in enumerate(("first", "last")):
        once, again = (decoded(batch.sink.read(index)) for _ in range(2))
        assert once == again
        assert once["custom_id"] == custom_id
