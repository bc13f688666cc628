"""What Schemathesis does not know of NDJSON: a body that it makes up is sent as one line, and each line of an answer is
held against its schema."""

import json

import jsonschema
import schemathesis

NDJSON = "application/x-ndjson"


@schemathesis.serializer(NDJSON)
def one_line(_: schemathesis.SerializationContext, value: object) -> bytes:
    """Its bytes."""
    return value if isinstance(value, bytes) else json.dumps(value, default=str).encode() + b"\n"


@schemathesis.check
def every_line_is_as_the_document_says(
    _: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Raises AssertionError."""
    if not response.headers.get("content-type", [""])[0].startswith(NDJSON):
        return
    document = case.operation.schema.raw_schema
    answers = document["paths"][case.path][case.method.lower()]["responses"]
    schema = answers[str(response.status_code)]["content"][NDJSON]["schema"]
    validator = jsonschema.Draft202012Validator(schema | {"components": document["components"]})
    for line in response.content.splitlines():
        error = next(validator.iter_errors(json.loads(line)), None) if line.strip() else None
        assert error is None, f"{error.message} in {line[:200]!r}" if error else ""
