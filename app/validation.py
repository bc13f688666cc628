"""From a decoder's complaint to a message for a user: which field, what is wrong with it, and what would help."""

import difflib
import re
import reprlib
from collections.abc import Iterable

import msgspec

_PLACE = re.compile(r" - at `(?:key` in `)?\$(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$")
HALF_CHARACTER = b"\xff     "  # in the place of an escape for half a character: app/batches/surrogates.py
HALF = "half a character, such as the escape \\ud83d without its other half"
SOME_KEY = "[...]"  # msgspec does not say which one
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
SHOWN_VALUE_LENGTH = 80
_repr = reprlib.Repr()
_repr.maxlist = _repr.maxdict = _repr.maxlevel = 20
_repr.maxstring = _repr.maxlong = _repr.maxother = SHOWN_VALUE_LENGTH


class Complaint(msgspec.Struct, frozen=True):
    """What is wrong, and where."""

    param: str | None
    message: str


def complaint(error: Exception, place: str, known: Iterable[str] = ()) -> Complaint:
    """Translates a decoding error. `place` is where the decoded value stands in the request, such as ``prompts[3]``."""
    if isinstance(error, RecursionError):
        return Complaint(place or None, f"{place or 'the body'} is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        # Its position counts from the beginning of the string that it is in, so it would mislead.
        reason = error.reason
        if bytes(error.object[error.start : error.start + len(HALF_CHARACTER)]) == HALF_CHARACTER:
            reason = HALF
        return Complaint(place or None, f"{place or 'the body'} is not valid UTF-8: {reason}")
    text = str(error)
    found = _PLACE.search(text)
    path = _join(place, found["path"].lstrip(".").replace(SOME_KEY, "")) if found else place
    reason = text[: found.start()] if found else text
    unknown = _UNKNOWN.match(reason)
    if unknown:
        return _unknown_field(unknown["name"], path, known)
    missing = _MISSING.match(reason)
    if missing:
        path = _join(path, missing["name"])
        return Complaint(path, f"{path} is missing")
    if not isinstance(error, msgspec.ValidationError):
        return Complaint(place or None, f"{place or 'the body'} is not valid JSON: {reason}")
    return Complaint(path or None, f"{path or 'the body'}: {_lower_first(reason).replace('`', '')}")


def shown(value: object) -> str:
    """A value as a message may quote it: short, and on one line. The value itself may be of any size."""
    text = _repr.repr(value)
    return text if len(text) <= SHOWN_VALUE_LENGTH else text[: SHOWN_VALUE_LENGTH - 3] + "..."


def short(name: str) -> str:
    """A name that a client gave, as a message may repeat it."""
    return name if len(name) <= SHOWN_VALUE_LENGTH else name[:SHOWN_VALUE_LENGTH] + "..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint at the name that was probably meant, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {close[0]!r}?" if close else ""


def _unknown_field(name: str, place: str, known: Iterable[str]) -> Complaint:
    name = short(name)
    where = f" in {place}" if place else ""
    return Complaint(_join(place, name), f"unknown field {name!r}{where}{did_you_mean(name, known)}")


def _join(place: str, path: str) -> str:
    if not place or not path:
        return place or path
    return place + path if path.startswith("[") else f"{place}.{path}"


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
