"""What a client sends for detached batches, and what it makes of a request that was lost on the way."""

import json
from collections.abc import Iterator
from itertools import islice
from typing import cast

import httpx
import pytest

from phalanx.client.batch_info import BatchInfo, Page, decoded
from phalanx.client.calls import (
    KEPT_BYTES,
    PIECE_BYTES,
    Paging,
    Submission,
    delete,
    generation,
    results,
    resume,
    show,
    submission,
)
from phalanx.client.errors import IncompleteAnswer, MaybeAccepted
from phalanx.client.exchange import Prompt

URL = "http://gateway"
BROKEN = httpx.ReadError("reset")


def sent(call: Submission) -> Submission:
    """The same, as after an attempt that got all of it away."""
    list(call.content())
    return call


def test_a_batch_is_a_line_of_options_and_one_for_each_prompt() -> None:
    prompts: list[Prompt] = ["a\nb", [1, 2], {"custom_id": "c", "prompt": "é"}]
    call = submission(prompts, {"timeout_s": 5}, "key-1", expires_after_s=60, metadata={"row": 1})
    first, *lines = b"".join(call.content()).decode().splitlines()
    assert json.loads(first) == {
        "object": "batch_generation.options",
        "background": True,
        "timeout_s": 5,
        "expires_after_s": 60,
        "metadata": {"row": 1},
    }
    assert [json.loads(line) for line in lines] == prompts
    assert call.headers["Content-Type"] == "application/x-ndjson"
    assert call.headers["Idempotency-Key"] == "key-1"
    assert b"".join(call.content()).decode().splitlines() == [first, *lines]


def test_prompts_are_read_as_they_are_sent_and_in_pieces_of_whole_lines() -> None:
    read = 0

    def prompts() -> Iterator[str]:
        nonlocal read
        for _ in range(100_000):
            read += 1
            yield "x" * 98

    pieces = iter(submission(prompts(), {}, None, None, None).content())
    first = next(pieces)
    assert PIECE_BYTES <= len(first) < PIECE_BYTES + 200 and first.endswith(b'x"\n')
    assert read < 700
    assert max(map(len, pieces)) < PIECE_BYTES + 200 and read == 100_000


@pytest.mark.parametrize("key", ["", "two\nlines", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="idempotency_key is '"):
        submission(["a"], {}, key, None, None)


def test_only_an_iterator_of_which_much_was_sent_cannot_be_sent_again() -> None:
    long = "x" * PIECE_BYTES
    pieces = KEPT_BYTES // PIECE_BYTES
    once = submission(iter([long] * (pieces + 1)), {}, None, None, None)
    assert once.can_be_sent_again
    once.content()  # an attempt that found nobody
    assert once.can_be_sent_again
    assert not sent(once).can_be_sent_again
    assert sent(submission([long] * (pieces + 1), {}, None, None, None)).can_be_sent_again


@pytest.mark.parametrize("taken", [0, 1, 2, 5])
def test_what_was_sent_of_an_iterator_is_sent_again(taken: int) -> None:
    prompts: list[Prompt] = ["a" * PIECE_BYTES, "b" * PIECE_BYTES, "c", "d" * PIECE_BYTES, "e"]
    call = submission(iter(prompts), {}, None, None, None)
    whole = b"".join(submission(prompts, {}, None, None, None).content())
    list(islice(call.content(), taken))
    assert b"".join(call.content()) == whole
    assert b"".join(call.content()) == whole


def test_prompts_of_an_attached_batch_go_as_lines_if_they_are_no_sequence() -> None:
    listed = generation(("a", [1]), {"priority": 3})
    assert json.loads(cast("bytes", listed.content())) == {"prompts": ["a", [1]], "stream": True, "priority": 3}
    lines = generation((prompt for prompt in ("a", "b")), {"priority": 3})
    first, *rest = b"".join(cast("Iterator[bytes]", lines.content())).splitlines()
    assert json.loads(first) == {"object": "batch_generation.options", "priority": 3}
    assert rest == [b'"a"', b'"b"']
    assert lines.headers == {"Accept": "application/x-ndjson", "Content-Type": "application/x-ndjson"}
    assert "broke (reset)" in str(lines.lost(URL, BROKEN)) and not isinstance(lines.lost(URL, BROKEN), MaybeAccepted)


def test_a_lost_batch_may_have_been_accepted_only_if_it_was_sent_whole() -> None:
    call = submission(["a" * PIECE_BYTES, "b"], {}, None, None, None)
    call.content()
    assert "nobody answers at http://gateway (refused)" in str(call.lost(URL, httpx.ConnectError("refused")))
    next(call.content())
    half = call.lost(URL, BROKEN)
    assert "nothing was accepted" in str(half) and not isinstance(half, MaybeAccepted)
    whole = sent(call).lost(URL, BROKEN)
    assert isinstance(whole, MaybeAccepted) and "idempotency_key can be sent again" in str(whole)
    keyed = sent(submission(["a"], {}, "key", None, None)).lost(URL, BROKEN)
    assert isinstance(keyed, MaybeAccepted) and "with the same idempotency_key" in str(keyed)
    call.content()  # a new attempt, after one that was refused when all was sent
    assert not isinstance(call.lost(URL, httpx.ConnectError("refused")), MaybeAccepted)


def test_what_no_time_mends_is_no_outage() -> None:
    call = show("batchgen-1")
    assert call.lost(URL, httpx.ReadTimeout("")).is_temporary
    assert not call.lost(URL, httpx.UnsupportedProtocol("ftp")).is_temporary


def test_paths_and_parameters() -> None:
    call = results("a/b", 7, follow=True)
    assert (call.path, call.params) == ("/v1/batch_generate/a%2Fb/results", {"after": 7, "follow": 1})
    assert results("x", 0, follow=False).params == {"after": 0}
    assert resume("x", None, None).content() is None
    assert resume("x", 5, None).content() == b'{"timeout_s":5}'
    assert (delete("x").method, delete("x").path) == ("DELETE", "/v1/batch_generate/x")


def page(*ids: str, has_more: bool) -> Page:
    batches = [BatchInfo(id=id_, status="completed", created_at=1) for id_ in ids]
    return Page(batches, last_id=ids[-1] if ids else None, has_more=has_more)


def test_pages_go_on_after_the_last_one_seen_until_there_are_no_more() -> None:
    paging = Paging(("queued", "held"), None)
    first = paging.next()
    assert first is not None and first.params == {"limit": 100, "status": "queued,held"}
    paging.take(page("c", "b", has_more=True))
    second = paging.next()
    assert second is not None and second.params == {"limit": 100, "after": "b", "status": "queued,held"}
    paging.take(page("a", has_more=False))
    assert paging.next() is None


def test_no_more_batches_are_asked_for_than_are_wanted() -> None:
    paging = Paging((), 120)
    paging.take(page(*(str(number) for number in range(100)), has_more=True))
    last = paging.next()
    assert last is not None and last.params == {"limit": 20, "after": "99"}
    paging.take(page(*(str(number) for number in range(100, 120)), has_more=True))
    assert paging.next() is None


def test_a_batch_is_read_and_written_as_the_service_writes_it() -> None:
    body = b'{"object":"batch_generation.batch","id":"b","status":"expired","created_at":1790000000,"later":1,%s}'
    info = decoded(BatchInfo, body % b'"request_counts":{"total":9,"ok":2,"error":1,"cancelled":1,"timeout":3}')
    assert info.is_done and info.failed_items == 5
    written = json.loads(info.to_json())
    assert (written["object"], written["created_at"]) == ("batch_generation.batch", 1790000000)
    with pytest.raises(IncompleteAnswer, match="none of Phalanx's"):
        decoded(BatchInfo, b"<html>")
