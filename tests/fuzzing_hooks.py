"""How Schemathesis sends what it makes up for an NDJSON body: as a body of that one line."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def one_line(_: schemathesis.SerializationContext, value: object) -> bytes:
    """Its bytes."""
    return value if isinstance(value, bytes) else json.dumps(value, default=str).encode() + b"\n"
