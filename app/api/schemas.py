"""JSON schemas of what is read and written, made from the very structs that decode and encode it.

A struct that keeps a part as the JSON it came in says nothing about that part: what it may hold stands in `OPAQUE`.
"""

from collections.abc import Iterable
from typing import Any, get_args

import msgspec

from app.api.batch_response import BatchHead, BatchTail
from app.api.errors import ErrorAnswer, ErrorBody
from app.api.health import Alive, Health, RankSummary
from app.api.models import Model, ModelList
from app.api.ranks import RankList, RankView
from app.batches.request import NOT_YET, BatchRequest, PromptObject
from app.batches.results import ItemResult, PromptTokensDetails, ResultError, Status, Usage
from app.batches.stats import RankShare, Stats
from app.ranks.rank import RankState
from engines.contract.protocol import ItemErrorCode, Stage
from engines.contract.sampling import RepetitionDetection, SamplingFields, StructuredOutputs
from engines.contract.spec import GroupKind

Schema = dict[str, Any]  # Any: JSON

REF = "#/components/schemas/{name}"
ANSWER = "BatchAnswer"
READ: tuple[type[msgspec.Struct], ...] = (
    BatchRequest,
    PromptObject,
    SamplingFields,
    StructuredOutputs,
    RepetitionDetection,
)
WRITTEN: tuple[type[msgspec.Struct], ...] = (
    BatchHead,
    BatchTail,
    ItemResult,
    ResultError,
    Usage,
    PromptTokensDetails,
    Stats,
    RankShare,
    ErrorAnswer,
    ErrorBody,
    Health,
    RankSummary,
    Alive,
    RankView,
    RankList,
    Model,
    ModelList,
)


def ref(name: str) -> Schema:
    """A reference to a component."""
    return {"$ref": REF.format(name=name)}


def or_null(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def array_of(schema: Schema, **more: Any) -> Schema:  # Any: keywords of a schema
    """A list of these."""
    return {"type": "array", "items": schema, **more}


def one_of(words: Iterable[str]) -> Schema:
    """A closed list of words."""
    return {"type": "string", "enum": list(words)}


TEXT: Schema = {"type": "string", "title": "Text"}
TOKEN_IDS = array_of({"type": "integer", "minimum": 0}, minItems=1, title="Token ids")
JSON_OBJECT: Schema = {"type": "object", "additionalProperties": True}
ANY_JSON: Schema = {"description": "Any JSON of yours, handed back in the result."}
LOGPROBS = array_of(or_null({"type": "object", "additionalProperties": ref("TokenLogprob")}))

# What parts hold that a struct keeps as JSON.
OPAQUE: dict[type, dict[str, Schema]] = {
    BatchRequest: {
        "prompts": array_of({"oneOf": [TEXT, TOKEN_IDS, ref("PromptObject")]}, minItems=1),
        "sampling_params": or_null(ref("SamplingFields")),
    },
    PromptObject: {
        "prompt": {"oneOf": [TEXT, TOKEN_IDS, {"type": "null"}]},
        "messages": or_null(array_of(ref("Message"), minItems=1)),
        "sampling_params": or_null(ref("SamplingFields")),
        "tools": or_null(array_of(JSON_OBJECT)),
        "chat_template_kwargs": or_null(JSON_OBJECT),
        "metadata": ANY_JSON,
    },
    ItemResult: {
        "outputs": array_of(ref("Output")),
        "prompt_logprobs": LOGPROBS | {"description": "One entry per token of the prompt."},
        "metadata": ANY_JSON,
    },
}

# What is encoded as a plain word, and is one of a closed list.
WORDS: dict[type, dict[str, Schema]] = {
    ResultError: {"code": one_of(ItemErrorCode)},
    RankSummary: {"state": one_of(RankState), "stage": or_null(one_of(Stage))},
    RankView: {
        "state": one_of(RankState),
        "stage": or_null(one_of(Stage)),
        "group_kind": or_null(one_of(GroupKind)),
    },
    BatchHead: {"object": {"const": "batch_generation"}},
}

# What a name does not say.
NOTES: dict[type, dict[str, str]] = {
    BatchRequest: {
        "prompts": "Text, token ids and objects, mixed as you like.",
        "model": "May be left out; any other name than the served one is 404.",
        "sampling_params": "For all prompts; a prompt's own are merged over them key by key.",
        "timeout_s": "From admission; prompts not finished by then have status timeout. At most --max-timeout-s.",
        "priority": "Batches of a lower one run first. Without one it is 0, or the nearest that the API key may use.",
        "return_token_ids": "Whether outputs have token_ids.",
    },
    PromptObject: {
        "custom_id": "Handed back in the result; unique within the batch.",
        "sampling_params": "Merged over the batch's; null restores a default.",
        "truncate_prompt_tokens": "Keeps the last so many tokens; -1: as many as the context holds.",
        "tools": "For the chat template; with messages only.",
        "chat_template_kwargs": "For the chat template; with messages only.",
    },
    ItemResult: {
        "rank": "Which rank ran it; null when none did.",
        "error": "With status error only.",
    },
    RankView: {"held": "Items.", "credit": "Sequences that it may take now."},
    BatchHead: {"created_at": "Unix time in seconds."},
}

# What the ranks encode, or only they read.
MADE_BY_RANKS: dict[str, Schema] = {
    "Message": {
        "type": "object",
        "description": "A message of a chat. Its other fields go to the model's chat template.",
        "properties": {
            "role": {"type": "string"},
            "content": or_null({"oneOf": [{"type": "string"}, array_of(ref("TextPart"))]}),
        },
        "required": ["role"],
        "additionalProperties": True,
    },
    "TextPart": {
        "type": "object",
        "properties": {"type": one_of(("text", "input_text")), "text": {"type": "string"}},
        "required": ["type", "text"],
    },
    "Output": {
        "type": "object",
        "description": "One generated sequence.",
        "properties": {
            "index": {"type": "integer"},
            "text": {"type": "string"},
            "finish_reason": or_null({"type": "string", "description": "Such as stop, or length (max_tokens)."}),
            "stop_reason": {
                "type": ["integer", "string", "null"],
                "description": "The token id or string that stopped it.",
            },
            "token_ids": array_of({"type": "integer"}, description="Only with return_token_ids."),
            "logprobs": LOGPROBS | {"description": "Only with sampling_params.logprobs; one entry per token."},
            "simulated": {"const": True, "description": "Made up by the simulated engine; no model ran."},
        },
        "required": ["index", "text", "finish_reason", "stop_reason"],
    },
    "TokenLogprob": {
        "type": "object",
        "description": "A candidate token at one position, under its id.",
        "properties": {
            "logprob": {"type": "number"},
            "rank": or_null({"type": "integer"}),
            "decoded_token": or_null({"type": "string"}),
        },
        "required": ["logprob"],
    },
}


def components() -> dict[str, Schema]:
    """Every schema by its name."""
    _, schemas = msgspec.json.schema_components((*READ, *WRITTEN), ref_template=REF)
    for struct in (*READ, *WRITTEN):
        properties = schemas[struct.__name__]["properties"]
        for name, schema in OPAQUE.get(struct, {}).items():
            properties[name] = schema
        properties.update(WORDS.get(struct, {}))
        for name, note in NOTES.get(struct, {}).items():
            properties[name] = properties[name] | {"description": note}
    for struct in WRITTEN:
        _as_written(struct, schemas[struct.__name__])
    _as_read(schemas)
    head, tail = schemas.pop(BatchHead.__name__), schemas.pop(BatchTail.__name__)
    return schemas | MADE_BY_RANKS | {ANSWER: _whole_answer(head, tail)}


def _as_written(struct: type[msgspec.Struct], schema: Schema) -> None:
    """What is encoded is always there, whatever its default, unless it may be unset."""
    fields = msgspec.structs.fields(struct)
    schema["required"] = [field.encode_name for field in fields if field.default is not msgspec.UNSET]
    for found in schema["properties"].values():
        found.pop("default", None)


def _as_read(schemas: dict[str, Schema]) -> None:
    """What the code that reads a request allows or refuses beyond the types."""
    for struct in (SamplingFields, StructuredOutputs, RepetitionDetection):
        properties = schemas[struct.__name__]["properties"]
        for name, schema in properties.items():
            properties[name] = or_null(schema)  # null is the same as absence
    request = schemas[BatchRequest.__name__]["properties"]
    for name in NOT_YET:
        request[name] = {"enum": [False, None], "default": None, "description": "Does not exist yet: leave it out."}
    present = [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in ("prompt", "messages")]
    schemas[PromptObject.__name__]["oneOf"] = present


def _whole_answer(head: Schema, tail: Schema) -> Schema:
    """Head, results and tail are encoded apart, and stand in one object."""
    counts = {name: {"type": "integer"} for name in ("total", *get_args(Status))}
    results = {"results": array_of(ref(ItemResult.__name__), description="One per prompt, in their order.")}
    properties = head["properties"] | results | tail["properties"]
    properties["request_counts"] = {"type": "object", "properties": counts, "required": list(counts)}
    return {
        "title": ANSWER,
        "description": "The answer to a batch.",
        "type": "object",
        "properties": properties,
        "required": [*head["required"], *results, *tail["required"]],
    }
