"""Which bytes a Range header asks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.byte_range import ByteRange, asked_range
from app.errors import RangeNotSatisfiable


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=10-19", 10, 20),
        ("bytes=90-", 90, 100),
        ("bytes=90-5000", 90, 100),
        ("bytes=-1", 99, 100),
        ("bytes=-5000", 0, 100),
        ("Bytes= 5-6 ", 5, 7),
    ],
)
def test_a_part_is_found(header: str, start: int, stop: int) -> None:
    found = asked_range(header, 100)
    assert found == ByteRange(start, stop, 100, is_part=True)
    assert found.status == 206
    assert found.headers == {
        "accept-ranges": "bytes",
        "content-length": str(stop - start),
        "content-range": f"bytes {start}-{stop - 1}/100",
    }


@pytest.mark.parametrize(
    "header", [None, "", "bytes", "bytes=", "bytes=-", "bytes=x-y", "lines=1-2", "bytes=5-4", "bytes=1-2,4-5"]
)
def test_what_means_nothing_or_too_much_gives_all(header: str | None) -> None:
    found = asked_range(header, 100)
    assert (found.start, found.stop, found.status) == (0, 100, 200)
    assert found.headers == {"accept-ranges": "bytes", "content-length": "100"}


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=100-", 100), ("bytes=100-200", 100), ("bytes=-0", 100), ("bytes=0-", 0)]
)
def test_what_is_not_there_is_refused_with_the_size(header: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiable, match=f"there are {size} bytes") as refused:
        asked_range(header, size)
    assert refused.value.headers == {"Content-Range": f"bytes */{size}"}


@given(
    st.text(alphabet="bytes=-0123456789, ", max_size=20) | st.from_regex(r"bytes=\d{0,3}-\d{0,3}"), st.integers(0, 300)
)
def test_a_range_is_always_within_the_bytes(header: str, size: int) -> None:
    try:
        found = asked_range(header, size)
    except RangeNotSatisfiable:
        return
    assert 0 <= found.start <= found.stop <= size and (found.stop - found.start > 0 or not found.is_part)
