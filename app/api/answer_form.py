"""In which form a batch is answered: at once, or as a stream. The body's `stream` decides, or else Accept does."""

from app.api.body import JSON_TYPE
from app.errors import InvalidRequest

NDJSON = "application/x-ndjson"
WILDCARDS = ("application/*", "*/*")


def is_streamed(stream: bool | None, accept: str) -> bool:
    """Whether the answer is a stream. Raises InvalidRequest when the header refuses what `stream` asks for.

    Without `stream` it is one if the header names it, and names JSON with no higher quality.
    """
    found = qualities(accept)
    if stream is None:
        named = found.get(NDJSON, 0.0)
        return named > 0 and named >= found.get(JSON_TYPE, 0.0)
    if stream and _refuses(found, NDJSON):
        raise _contradiction("true", accept, NDJSON)
    if not stream and NDJSON in found and _refuses(found, JSON_TYPE):
        raise _contradiction("false", accept, JSON_TYPE)
    return stream


def qualities(accept: str) -> dict[str, float]:
    """The header's media types with their q."""
    found = {}
    for entry in filter(str.strip, accept.lower().split(",")):
        name, *parameters = (part.strip() for part in entry.split(";"))
        given = [value.strip() for key, _, value in (part.partition("=") for part in parameters) if key.strip() == "q"]
        found[name] = _number(given[0]) if given else 1.0
    return found


def _number(text: str) -> float:
    """A quality; one that is none is taken for 1."""
    try:
        return float(text)
    except ValueError:
        return 1.0


def _refuses(qualities: dict[str, float], media_type: str) -> bool:
    """Whether there is a header, and the most precise part of it that concerns the type does not accept it."""
    named = [qualities[name] for name in (media_type, *WILDCARDS) if name in qualities]
    return bool(qualities) and not (named and named[0] > 0)


def _contradiction(stream: str, accept: str, needed: str) -> InvalidRequest:
    return InvalidRequest(
        f"stream is {stream}, and Accept is {accept[:100]!r}: the answer is {needed}, so add that to Accept, or leave "
        "the header out",
        param="Accept",
        code="not_acceptable",
    )
