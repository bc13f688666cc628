"""Headers of a request and of its answer, by name, without the classes around them: each request asks for ten."""

from starlette.types import Message, Scope


def header_of(scope: Scope, name: bytes) -> str | None:
    """The first header of a request with this name, which is in small letters."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def add_header(start: Message, name: bytes, value: str) -> None:
    """Gives an answer that is about to begin one more header."""
    start["headers"] = [*start.get("headers", ()), (name, value.encode("latin-1"))]
