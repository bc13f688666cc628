"""Forms as they come: cut into the same fields however their bytes are parted, and refused when they are broken."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.form_cutter import FieldEnd, FieldHead, FormCutter, boundary_of
from app.errors import InvalidRequest, WrongMediaType

BOUNDARY = b"x-boundary"
Field = tuple[FieldHead, bytes]
contents = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from([b"\r", b"\n", b"--", BOUNDARY, b"\r\n--", b"a"]), max_size=20).map(b"".join),
).filter(lambda content: b"--" + BOUNDARY not in content)


def field(content: bytes, *headers: bytes) -> bytes:
    return b"--" + BOUNDARY + b"\r\n" + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + content + b"\r\n"


def named(name: str, content: bytes, filename: str | None = None) -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    return field(content, disposition.encode(), b"Content-Type: text/plain")


END = b"--" + BOUNDARY + b"--\r\n"


def cut(*parts: bytes) -> list[Field]:
    """The fields, with their content."""
    cutter = FormCutter(BOUNDARY)
    found: list[Field] = []
    head: FieldHead | None = None
    content = b""
    for part in parts:
        for event in cutter.take(part):
            if isinstance(event, FieldHead):
                assert head is None
                head, content = event, b""
            elif isinstance(event, FieldEnd):
                assert head is not None
                found.append((head, content))
                head = None
            else:
                content += event
    cutter.end()
    return found


@given(st.lists(contents, max_size=3), st.lists(st.integers(0, 500), max_size=8))
def test_the_fields_are_the_same_however_the_body_is_parted(values: list[bytes], cuts: list[int]) -> None:
    body = b"".join(named(f"field {number}", value) for number, value in enumerate(values)) + END
    places = [0, *sorted(min(place, len(body)) for place in cuts), len(body)]
    parts = [body[start:stop] for start, stop in pairwise(places)]
    assert cut(*parts) == [(FieldHead(f"field {number}"), value) for number, value in enumerate(values)]


def test_a_name_of_a_file_is_read_as_browsers_and_libraries_write_it() -> None:
    body = named("file", b"", "grün %22neu%22.jsonl") + named("other", b"", "")
    assert [head for head, _ in cut(body, END)] == [
        FieldHead("file", 'grün "neu".jsonl'),
        FieldHead("other", ""),
    ]
    latin = field(b"", b'content-disposition: form-data; name="file"; filename="gr\xfcn"; filename*=UTF-8\'\'other')
    assert cut(latin, END) == [(FieldHead("file", "grün"), b"")]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "its last boundary is missing"),
        (named("purpose", b"batch"), "its last boundary is missing"),
        (b'{"purpose": "batch"}', "Expected boundary character"),
        (field(b"batch"), "has no Content-Disposition"),
        (field(b"batch", b"Content-Disposition: form-data"), "has no Content-Disposition"),
        (field(b"batch", b'Content-Disposition: attachment; name="purpose"'), "has no Content-Disposition"),
        (
            field(b"YmF0Y2g=", b'Content-Disposition: form-data; name="purpose"', b"Content-Transfer-Encoding: base64"),
            "has the Content-Transfer-Encoding 'base64'",
        ),
        (field(b"batch", *(b"X-%d: 1" % number for number in range(100))), "header count"),
        (field(b"batch", b"X: " + b"x" * 100_000), "header size"),
    ],
)
def test_a_broken_form_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^the form is broken: .*{said}") as refused:
        cut(body)
    assert refused.value.code == "invalid_form"


def test_what_stands_behind_the_end_is_nothing() -> None:
    assert cut(END, b"anything") == []


def test_the_boundary_is_in_the_content_type() -> None:
    assert boundary_of('Multipart/Form-Data; charset=utf-8; boundary="a b"') == b"a b"
    for content_type in ("", "application/json", "multipart/mixed; boundary=x", "\xff; boundary=x"):
        with pytest.raises(WrongMediaType, match="must be multipart/form-data"):
            boundary_of(content_type)
    for content_type in ("multipart/form-data", "multipart/form-data; boundary="):
        with pytest.raises(InvalidRequest, match="no boundary"):
            boundary_of(content_type)
    with pytest.raises(InvalidRequest, match="exceeds maximum"):
        FormCutter(b"x" * 1000)
