"""A file as it is uploaded: a form whose fields may come in any order, its content going to the journal as it comes."""

import msgspec
from fastapi import Request

from app.api.auth import caller_of
from app.api.body_parts import BodyParts
from app.api.form_cutter import FieldEnd, FieldHead, FormCutter, FormEvent, boundary_of
from app.errors import InvalidRequest, TooLarge, TooSlow
from app.files.incoming import HELD_BYTES, IncomingFile
from app.files.names import UPLOADED, name_problem
from app.gateway import Gateway
from app.journal.records import StoredFile
from app.validation import did_you_mean, short, shown

FILE, PURPOSE = "file", "purpose"
ANCHOR, AFTER_S = "expires_after[anchor]", "expires_after[seconds]"
FIELDS = (FILE, PURPOSE, ANCHOR, AFTER_S)
CREATED_AT = "created_at"  # the only anchor that there is
SHORTEST_S, LONGEST_S = 3600, 30 * 86400  # OpenAI's bounds
MAX_VALUE_BYTES = 1024  # of a field that is no file
MAX_BESIDE_BYTES = 64 * 1024  # of a form, beside the content of its file


class Asked(msgspec.Struct, frozen=True):
    """What the fields beside the file say."""

    purpose: str
    expires_after_s: int | None


async def receive(request: Request, gateway: Gateway) -> StoredFile:
    """The file, durable. Raises RequestError and JournalError; nothing of it stays then."""
    gateway.availability.check_open()
    gateway.keeper.check()
    cutter = FormCutter(boundary_of(request.headers.get("content-type", "")))
    limit = gateway.settings.max_file_bytes + MAX_BESIDE_BYTES
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    holding = gateway.memory.open()
    upload = Upload(gateway, caller_of(request).tenant)
    try:
        holding.take(HELD_BYTES)
        parts, size = BodyParts(request, gateway.settings, gateway.bodies), 0
        while (part := await parts.next()) is not None:
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            for event in cutter.take(part):
                await upload.take(event)
        cutter.end()
        return await upload.end()
    except TooSlow:
        gateway.availability.check_open()  # the service ends: what has not come whole is not waited for
        raise
    finally:
        await upload.close()
        holding.close()


class Upload:
    """One form. `close` it in the end: what was not ended well is discarded."""

    def __init__(self, gateway: Gateway, tenant: str) -> None:
        self._gateway = gateway
        self._tenant = tenant
        self._values: dict[str, bytearray] = {}  # of the fields that have begun; the file's is empty
        self._open: str | None = None  # the field that comes just now
        self._file: IncomingFile | None = None
        self._filename = ""

    async def take(self, event: FormEvent) -> None:
        """More of it. Raises InvalidRequest, TooLarge and JournalError."""
        if isinstance(event, FieldHead):
            self._begin(event)
            if event.name == FILE:
                self._file = await IncomingFile.begin(self._gateway.keeper, self._gateway.settings, self._tenant)
        elif isinstance(event, FieldEnd):
            self._end_field()
        elif self._open == FILE and self._file is not None:
            await self._file.write(event)
        elif self._open is not None:
            self._add(self._open, event)

    async def end(self) -> StoredFile:
        """There are no more fields."""
        for name in (FILE, PURPOSE):
            if name not in self._values:
                raise InvalidRequest(f"the form has no field {name!r}: it needs file and purpose", param=name)
        asked, file = self._asked(), self._file
        if file is None:
            raise TypeError("a file's field has begun, and no file")
        stored = await file.seal(asked.purpose, self._filename, asked.expires_after_s)
        self._file = None
        return stored

    async def close(self) -> None:
        """May be called twice."""
        file, self._file = self._file, None
        if file is not None:
            await file.discard()

    def _begin(self, head: FieldHead) -> None:
        name = head.name
        if name not in FIELDS:
            raise InvalidRequest(
                f"unknown field {short(name)!r}{did_you_mean(name, FIELDS) or ': it may be ' + ', '.join(FIELDS)}",
                param=short(name),
            )
        if name in self._values:
            raise InvalidRequest(f"the form has the field {name!r} twice: leave one out", param=name)
        if name == FILE:
            if head.filename is None:
                raise InvalidRequest("file has no filename: send it as a file, such as curl -F file=@PATH", param=FILE)
            self._filename = head.filename.rpartition("/")[2]
            if problem := name_problem(self._filename):
                raise InvalidRequest(f"the file's name is {shown(head.filename)}: {problem}", param=FILE)
        self._values[name] = bytearray()
        self._open = name

    def _add(self, name: str, data: bytes) -> None:
        value = self._values[name]
        value += data
        if len(value) > MAX_VALUE_BYTES:
            raise InvalidRequest(f"{name} has more than {MAX_VALUE_BYTES} bytes: it is a word or a number", param=name)

    def _end_field(self) -> None:
        """What is wrong with a field is said before the content comes, where it comes first."""
        if self._open == PURPOSE:
            _purpose(self._value(PURPOSE))
        self._open = None

    def _asked(self) -> Asked:
        """Raises InvalidRequest."""
        if ANCHOR not in self._values and AFTER_S not in self._values:
            return Asked(_purpose(self._value(PURPOSE)), None)
        if self._value(ANCHOR) != CREATED_AT:
            raise InvalidRequest(f"{ANCHOR} is {shown(self._value(ANCHOR))}: it must be {CREATED_AT}", param=ANCHOR)
        written = self._value(AFTER_S)
        after_s = int(written) if written.isascii() and written.isdecimal() and len(written) < 10 else -1
        if not SHORTEST_S <= after_s <= LONGEST_S:
            raise InvalidRequest(
                f"{AFTER_S} is {shown(written)}: it must be a whole number from {SHORTEST_S} to {LONGEST_S}",
                param=AFTER_S,
            )
        return Asked(_purpose(self._value(PURPOSE)), after_s)

    def _value(self, name: str) -> str:
        return self._values.get(name, b"").decode(errors="replace")


def _purpose(written: str) -> str:
    """Raises InvalidRequest."""
    if written not in UPLOADED:
        raise InvalidRequest(
            f"purpose is {shown(written)}: it must be batch, for the input of a batch, or for what is only kept "
            f"{', '.join(UPLOADED[1:])}",
            param=PURPOSE,
        )
    return written


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(
        f"the form has more than {limit_bytes} bytes (--max-file-bytes and {MAX_BESIDE_BYTES >> 10} KiB more): split "
        "the file",
        param=FILE,
        code="file_too_large",
    )
