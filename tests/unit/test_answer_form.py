"""Which batches are answered as a stream: `stream` in the body decides, or else what Accept prefers."""

import pytest

from app.api.answer_form import is_streamed
from app.errors import InvalidRequest

STREAM, AT_ONCE = True, False


@pytest.mark.parametrize(
    ("stream", "accept", "form"),
    [
        (None, "", AT_ONCE),
        (None, "*/*", AT_ONCE),
        (None, "application/*", AT_ONCE),
        (None, "application/json", AT_ONCE),
        (None, "text/html", AT_ONCE),  # who asks for what there is none of gets JSON, as errors do
        (None, "application/x-ndjson", STREAM),
        (None, " Application/X-NDJSON ; charset=utf-8", STREAM),
        (None, "application/x-ndjson, application/json", STREAM),
        (None, "application/x-ndjson;q=0.5, application/json", AT_ONCE),
        (None, "application/json;q=0.5, application/x-ndjson", STREAM),
        (None, "application/x-ndjson;q=0", AT_ONCE),
        (None, "application/x-ndjson, */*;q=0.1", STREAM),
        (True, "", STREAM),
        (True, "*/*", STREAM),
        (True, "application/json, */*;q=0.1", STREAM),
        (True, "application/json, application/*", STREAM),
        (True, "application/x-ndjson;q=high", STREAM),
        (False, "", AT_ONCE),
        (False, "*/*", AT_ONCE),
        (False, "text/html", AT_ONCE),
        (False, "application/x-ndjson, */*", AT_ONCE),
    ],
)
def test_the_form_is_what_the_body_asks_for_or_else_the_header(stream: bool | None, accept: str, form: bool) -> None:
    assert is_streamed(stream, accept) is form


@pytest.mark.parametrize(
    ("stream", "accept", "needed"),
    [
        (True, "application/json", "application/x-ndjson"),
        (True, "*/*, application/x-ndjson;q=0", "application/x-ndjson"),
        (True, "text/*", "application/x-ndjson"),
        (False, "application/x-ndjson", "application/json"),
        (False, "application/x-ndjson, application/json;q=0", "application/json"),
    ],
)
def test_a_header_that_refuses_what_the_body_asks_for_is_an_error(stream: bool, accept: str, needed: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        is_streamed(stream, accept)
    assert (refused.value.param, refused.value.code) == ("Accept", "not_acceptable")
    assert needed in refused.value.message
