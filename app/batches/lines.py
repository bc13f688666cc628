"""The lines of an NDJSON body: cut from the parts that it comes in, and checked one by one.

No more is held than one line and one part. A line that is no prompt is refused by itself: what a spool or the journal
keeps of it says why, in the place of the prompt, so that it stays an item among the others.
"""

import msgspec

from app.batches import surrogates
from app.batches.parsing import OPTIONS, parse_options
from app.batches.request import NO_PROMPTS, BatchRequest
from app.batches.splitting import MAX_BESIDE_BYTES, MAX_DEPTH, is_too_deep
from app.batches.turnstile import Turnstile
from app.errors import InvalidRequest, TooLarge
from app.validation import DECODE_ERRORS, complaint, shown
from engines.contract.item_errors import ItemError, ItemErrorCode

MAX_ITEMS = 20_000_000  # of one body: some bytes of memory are needed for each until its batch has ended
SPACE = b" \t\r"  # a line may hold nothing else, and end with \r\n
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OPTIONS_BYTES = OPTIONS.encode()
_REFUSED = b"\0"  # no JSON begins with it


class _Kind(msgspec.Struct):
    object: msgspec.Raw = msgspec.Raw(b"null")


_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_decode_kind = msgspec.json.Decoder(_Kind).decode
_decode_error = msgspec.json.Decoder(ItemError).decode


class LineCutter:
    """Cuts one body. A line of more than `longest` bytes is not kept, and the body goes on behind it."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._open = bytearray()  # the line whose end has not come yet
        self._is_too_long = False  # that line

    def take(self, part: bytes) -> list[bytes | None]:
        """The lines that end in this part, empty ones too; None is one that was too long."""
        first, last = part.find(b"\n"), part.rfind(b"\n")
        if first < 0:
            self._keep(part)
            return []
        self._keep(part[:first])
        lines = [self._finish()]
        if last > first:
            lines += part[first + 1 : last].split(b"\n")
        if last - first > self._longest:
            lines = [None if line is None or len(line) > self._longest else line for line in lines]
        self._keep(part[last + 1 :])
        return lines

    def end(self) -> list[bytes | None]:
        """The last line, if nothing ends it."""
        return [self._finish()] if self._open or self._is_too_long else []

    def _keep(self, part: bytes) -> None:
        if self._is_too_long or len(self._open) + len(part) > self._longest:
            self._is_too_long = True
            self._open.clear()
        else:
            self._open += part

    def _finish(self) -> bytes | None:
        line = None if self._is_too_long else bytes(self._open)
        self._is_too_long = False
        self._open.clear()
        return line


class LineReader:
    """Makes bodies of items of one body's lines. Lines are numbered from 1, items from 0."""

    def __init__(self, longest: int, turnstile: Turnstile) -> None:
        self._longest = longest
        self._turnstile = turnstile
        self._number = 0  # of the line that is looked at
        self._has_begun = False  # a line with something in it has come
        self.options = BatchRequest(prompts=NO_PROMPTS)  # the batch-wide fields
        self.items = 0

    async def read(self, lines: list[bytes | None]) -> list[bytes]:
        """The bodies of the items on these lines: the JSON of a prompt, or what `refusal_of` understands.

        Raises InvalidRequest for options that are wrong, and TooLarge for too many items.
        """
        bodies = []
        for line in lines:
            self._number += 1
            if line == b"":
                continue
            if not self._has_begun:
                line = line and line.removeprefix(BYTE_ORDER_MARK)  # noqa: PLW2901  only a body's first bytes are one
            if line is not None and not line.strip(SPACE):
                continue
            is_first, self._has_begun = not self._has_begun, True
            if is_first and self._take_options(line):
                continue
            bodies.append(await self._body(line))
        self.items += len(bodies)
        if self.items > MAX_ITEMS:
            raise TooLarge(
                f"the body has more than {MAX_ITEMS} prompts, the most that are accepted in one: split it",
                param="prompts",
                code="batch_too_large",
            )
        return bodies

    def end(self) -> None:
        """There are no more lines. Raises InvalidRequest when none was a prompt."""
        if self.items == 0:
            raise InvalidRequest("the body has no prompts: it takes one on each line", param="prompts")

    def _take_options(self, line: bytes | None) -> bool:
        """Whether the first line holds the batch's options, and no prompt. Raises InvalidRequest."""
        if line is None or not line.lstrip(SPACE).startswith(b"{"):
            return False
        try:
            kind = bytes(_decode_kind(line).object)
        except DECODE_ERRORS as error:
            if _OPTIONS_BYTES not in line:
                return False
            raise InvalidRequest(complaint(error, self._place).message, param=self._place) from error
        if kind == b"null":
            return False
        if _text(kind) != OPTIONS:
            raise InvalidRequest(
                f"object is {shown(_text(kind) or kind.decode(errors='replace'))} on {self._place}: it must be "
                f"{OPTIONS!r} for options, and a prompt has none",
                param="object",
            )
        self.options = parse_options(line)
        return True

    async def _body(self, line: bytes | None) -> bytes:
        if line is None:
            return self._refused(
                f"has more than {self._longest} bytes (--max-prompt-bytes and {MAX_BESIDE_BYTES >> 20} MiB more)"
            )
        try:
            raw = bytes(_decode_raw(line))
        except DECODE_ERRORS as error:
            marked = await self._mark(line)
            if marked is None:
                return _packed(complaint(error, self._place).message, self._place)
            raw = marked
        if is_too_deep(raw):
            return self._refused(f"is nested deeper than {MAX_DEPTH} levels")
        if _OPTIONS_BYTES in raw and _is_options(raw):
            return self._refused("holds options: they must be on the first line")
        return raw

    async def _mark(self, line: bytes) -> bytes | None:
        """The JSON with its half characters marked, if they are all that is wrong. Whoever makes an item of it refuses
        them, and can name the item by its custom_id."""
        marked = bytearray(line)
        if b"\\u" not in line or not await surrogates.mark(marked, self._turnstile):
            return None
        try:
            return bytes(_decode_raw(marked))
        except DECODE_ERRORS:
            return None

    def _refused(self, what: str) -> bytes:
        return _packed(f"{self._place} {what}", self._place)

    @property
    def _place(self) -> str:
        return f"line {self._number}"


def refusal_of(body: bytes) -> ItemError | None:
    """Why an item was refused as its line was read; None if its body is the JSON of a prompt."""
    return _decode_error(body[len(_REFUSED) :]) if body.startswith(_REFUSED) else None


def _packed(message: str, place: str) -> bytes:
    return _REFUSED + msgspec.json.encode(ItemError(ItemErrorCode.INVALID_PROMPT, message, place))


def _is_options(raw: bytes) -> bool:
    """Whether a line that is valid JSON is an object that says so."""
    try:
        return raw.startswith(b"{") and _text(bytes(_decode_kind(raw).object)) == OPTIONS
    except DECODE_ERRORS:  # a key that is no UTF-8
        return False


def _text(raw: bytes) -> str | None:
    """The string that this JSON is."""
    try:
        return msgspec.json.decode(raw, type=str)
    except DECODE_ERRORS:
        return None
