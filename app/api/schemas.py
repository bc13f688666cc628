"""JSON schemas of what is read and written, made from the very structs that decode and encode it."""

from collections.abc import Iterable

import msgspec

from app.api import batch_schemas
from app.api.describing import REF, Described, Schema
from app.errors import ErrorAnswer, ErrorBody

OF_EVERY_ROUTE = (Described(ErrorAnswer), Described(ErrorBody))


def components(described: Iterable[Described]) -> dict[str, Schema]:
    """Every schema by its name."""
    structs = (*OF_EVERY_ROUTE, *described)
    _, schemas = msgspec.json.schema_components([found.struct for found in structs], ref_template=REF)
    for found in structs:
        properties = schemas[found.name]["properties"]
        properties.update(found.opaque)
        properties.update(found.words)
        for name, note in found.notes.items():
            properties[name] = properties[name] | {"description": note}
        if not found.is_read:
            _as_written(found.struct, schemas[found.name])
    return batch_schemas.complete(schemas)


def _as_written(struct: type[msgspec.Struct], schema: Schema) -> None:
    """What is encoded is always there, whatever its default, unless it may be unset."""
    fields = msgspec.structs.fields(struct)
    schema["required"] = [field.encode_name for field in fields if field.default is not msgspec.UNSET]
    for found in schema["properties"].values():
        found.pop("default", None)
