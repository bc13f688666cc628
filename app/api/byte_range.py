"""Which bytes of something a request asks for (`Range`, of RFC 9110), and how an answer says which it has."""

import re

import msgspec

from app.errors import RangeNotSatisfiable

_ONE_RANGE = re.compile(r"bytes=[ \t]*(?P<first>\d{0,18})-(?P<last>\d{0,18})[ \t]*", re.ASCII | re.IGNORECASE)


class ByteRange(msgspec.Struct, frozen=True):
    """From `start` to before `stop` of `size` bytes. A part of them is said to be one, even if it is all."""

    start: int
    stop: int
    size: int
    is_part: bool = False

    @property
    def status(self) -> int:
        """Of the answer."""
        return 206 if self.is_part else 200

    @property
    def headers(self) -> dict[str, str]:
        """What an answer with these bytes says of them."""
        headers = {"accept-ranges": "bytes", "content-length": str(self.stop - self.start)}
        if self.is_part:
            headers["content-range"] = f"bytes {self.start}-{self.stop - 1}/{self.size}"
        return headers


def asked_range(header: str | None, size: int) -> ByteRange:
    """What a Range header asks for. All of it where there is none, or one that means nothing here or asks for several
    ranges, as the RFC lets a server do. Raises RangeNotSatisfiable."""
    found = _ONE_RANGE.fullmatch(header or "")
    if found is None or not (found["first"] or found["last"]):
        return ByteRange(0, size, size)
    if not found["first"]:
        start, stop = max(0, size - int(found["last"])), size
    else:
        start, last = int(found["first"]), int(found["last"] or size - 1)
        if last < start and found["last"]:  # no range at all
            return ByteRange(0, size, size)
        stop = min(last + 1, size)
    if start >= stop:
        raise RangeNotSatisfiable(
            f"Range is {found[0]!r}, and there are {size} bytes, numbered from 0: ask for some of them", size
        )
    return ByteRange(start, stop, size, is_part=True)
