"""What `/v1/batch_generate` reads and writes, described field by field."""

from app.api.arriving_stream import BatchError
from app.api.batch_response import BatchHead, BatchTail
from app.api.batch_stream import BatchProgress, BatchSummary
from app.api.describing import Described, Schema, array_of, one_of, or_null, ref
from app.batches.dry_run import DryRun, DryRunCounts, DryRunItem
from app.batches.hindsight import MARKS, PredictionQuality
from app.batches.parsing import OPTIONS as OPTIONS_OBJECT
from app.batches.request import BatchRequest, PromptObject
from app.batches.results import ItemResult, PromptTokensDetails, RequestCounts, ResultError, Usage
from app.batches.stats import RankShare, Stats
from engines.contract.item_errors import ItemErrorCode
from engines.contract.sampling import RepetitionDetection, SamplingFields, StructuredOutputs

ANSWER = "BatchAnswer"
LINE = "BatchLine"
DETACHED_LINE = "DetachedLine"
OPTIONS = "BatchOptions"
REQUEST_LINE = "BatchRequestLine"
TEXT: Schema = {"type": "string", "title": "Text"}
TOKEN_IDS = array_of({"type": "integer", "minimum": 0}, minItems=1, title="Token ids")
JSON_OBJECT: Schema = {"type": "object", "additionalProperties": True}
ANY_JSON: Schema = {"description": "Any JSON of yours, handed back in the result."}
LOGPROBS = array_of(or_null({"type": "object", "additionalProperties": ref("TokenLogprob")}))

RESULT_PARTS: dict[str, Schema] = {
    "outputs": array_of(ref("Output")),
    "prompt_logprobs": LOGPROBS | {"description": "One entry per token of the prompt."},
    "metadata": ANY_JSON,
    "prompt": {
        "description": "Only with return_prompt: the text, token ids or messages, as they were sent. "
        "null if there are none, or none in valid UTF-8."
    },
}

SCHEMAS = (
    Described(
        BatchRequest,
        is_read=True,
        opaque={
            "prompts": array_of({"oneOf": [TEXT, TOKEN_IDS, ref("PromptObject")]}, minItems=1),
            "sampling_params": or_null(ref("SamplingFields")),
            "metadata": or_null(JSON_OBJECT),
        },
        notes={
            "background": "202 and the batch object at once; the batch runs on without its client.",
            "expires_after_s": "Of a batch in the background: expired, if it has not begun by then.",
            "metadata": "Of a batch in the background: handed back with it.",
            "prompts": "Text, token ids and objects, mixed as you like.",
            "model": "May be left out; any other name than the served one is 404.",
            "sampling_params": "For all prompts; a prompt's own are merged over them key by key.",
            "timeout_s": "From admission; prompts not finished by then have status timeout. At most --max-timeout-s.",
            "priority": "A lower one runs first. Without one it is 0, or the nearest that the API key may use.",
            "return_token_ids": "Whether outputs have token_ids.",
            "return_prompt": "Whether results have the prompt, as it was sent.",
            "stream": "Whether the answer is a stream of lines. Without it, Accept: application/x-ndjson asks for one.",
            "dry_run": "Runs nothing: the answer is a DryRun, with each prompt's tokens or why it would be refused.",
        },
    ),
    Described(
        PromptObject,
        is_read=True,
        opaque={
            "prompt": {"oneOf": [TEXT, TOKEN_IDS, {"type": "null"}]},
            "messages": or_null(array_of(ref("Message"), minItems=1)),
            "sampling_params": or_null(ref("SamplingFields")),
            "tools": or_null(array_of(JSON_OBJECT)),
            "chat_template_kwargs": or_null(JSON_OBJECT),
            "metadata": ANY_JSON,
        },
        notes={
            "custom_id": "Handed back in the result; unique within the batch.",
            "sampling_params": "Merged over the batch's; null restores a default.",
            "truncate_prompt_tokens": "Keeps the last so many tokens; -1: as many as the context holds.",
            "tools": "For the chat template; with messages only.",
            "chat_template_kwargs": "For the chat template; with messages only.",
        },
    ),
    Described(SamplingFields, is_read=True),
    Described(StructuredOutputs, is_read=True),
    Described(RepetitionDetection, is_read=True),
    Described(
        BatchHead, words={"object": {"const": "batch_generation"}}, notes={"created_at": "Unix time in seconds."}
    ),
    Described(BatchTail),
    Described(
        BatchProgress,
        words={"object": {"const": "batch_generation.progress"}},
        notes={"running": "Items on ranks.", "waiting": "Items that are to run, now or again."},
    ),
    Described(
        BatchSummary,
        words={"object": {"const": "batch_generation.summary"}},
        notes={"created_at": "Unix time in seconds."},
    ),
    Described(
        BatchError,
        words={"object": {"const": "batch_generation.error"}},
        notes={"error": "Why an NDJSON body ended early. No more results come; those that came are valid."},
    ),
    Described(RequestCounts),
    Described(
        ItemResult,
        opaque=RESULT_PARTS,
        notes={"rank": "Which rank ran it; null when none did.", "error": "With status error only."},
    ),
    Described(ResultError, words={"code": one_of(ItemErrorCode)}),
    Described(Usage),
    Described(PromptTokensDetails),
    Described(
        DryRun,
        words={"object": {"const": "batch_generation.dry_run"}},
        notes={
            "prompt_tokens": "Of all prompts that are accepted.",
            "max_completion_tokens": "The most that may be generated: n x max_tokens of each, as the context allows.",
            "predicted_completion_tokens": "From what items lately used of max_tokens; null before any has ended.",
            "predicted_s": "Until all would be done, if it were sent now; null before anything was measured.",
            "items": "One per prompt, in their order.",
        },
    ),
    Described(DryRunCounts),
    Described(
        DryRunItem,
        notes={
            "prompt_tokens": "What usage.prompt_tokens would be; 0 for one that is refused.",
            "max_completion_tokens": "For all n outputs together.",
            "error": "Only where it would be refused: the error of its result.",
        },
    ),
    Described(Stats, notes={"prediction": "Only of a batch that was large and long enough to tell."}),
    Described(RankShare),
    Described(
        PredictionQuality,
        notes=dict.fromkeys(MARKS, "Predicted / true time left, when so much of the batch was done; 1 is exact."),
    ),
)

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


def complete(schemas: dict[str, Schema]) -> dict[str, Schema]:
    """The schemas with what the structs do not say: nulls, what excludes what, the answer as a whole."""
    _as_read(schemas)
    head, tail = schemas.pop(BatchHead.__name__), schemas.pop(BatchTail.__name__)
    lines = {OPTIONS: _options(schemas[BatchRequest.__name__]), REQUEST_LINE: _request_line(), LINE: _line()}
    return schemas | MADE_BY_RANKS | {ANSWER: _whole_answer(head, tail), DETACHED_LINE: _detached_line()} | lines


def _as_read(schemas: dict[str, Schema]) -> None:
    """What the code that reads a request allows or refuses beyond the types."""
    for struct in (SamplingFields, StructuredOutputs, RepetitionDetection):
        properties = schemas[struct.__name__]["properties"]
        for name, schema in properties.items():
            properties[name] = or_null(schema)  # null is the same as absence
    present = [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in ("prompt", "messages")]
    schemas[PromptObject.__name__]["oneOf"] = present


def _whole_answer(head: Schema, tail: Schema) -> Schema:
    """Head, results and tail are encoded apart, and stand in one object."""
    results = {"results": array_of(ref(ItemResult.__name__), description="One per prompt, in their order.")}
    return {
        "title": ANSWER,
        "description": "The answer to a batch.",
        "type": "object",
        "properties": head["properties"] | results | tail["properties"],
        "required": [*head["required"], *results, *tail["required"]],
    }


def _options(request: Schema) -> Schema:
    """The first line of an NDJSON body: a request without its prompts."""
    fields = {name: schema for name, schema in request["properties"].items() if name != "prompts"}
    return {
        "title": OPTIONS,
        "description": "The batch-wide fields of an NDJSON body. Its answer is a stream, and it has no dry run.",
        "type": "object",
        "properties": {"object": {"const": OPTIONS_OBJECT}, **fields},
        "required": ["object"],
        "additionalProperties": False,
    }


def _request_line() -> Schema:
    """What the lines of an NDJSON body may be."""
    return {
        "title": REQUEST_LINE,
        "description": "A line of an NDJSON body: a prompt, or on the first line the batch's options. Empty lines are "
        "passed over, and a line that is no prompt is the error of its own item.",
        "oneOf": [ref(OPTIONS), TEXT, TOKEN_IDS, ref(PromptObject.__name__)],
    }


def _line() -> Schema:
    """What the lines of a stream may be: each is one of them."""
    structs = (BatchProgress, ItemResult, BatchSummary, BatchError)
    return {
        "title": LINE,
        "description": "A line of a stream; `object` says which. Without a summary at its end it is incomplete.",
        "oneOf": [ref(struct.__name__) for struct in structs],
    }


def _detached_line() -> Schema:
    """What the lines of a stored batch's results may be."""
    names = ("DetachedProgress", "NumberedResult", "DetachedSummary")
    return {
        "title": DETACHED_LINE,
        "description": "A line of a stored batch's results; `object` says which. The last is a summary, or progress "
        "where there is more to come.",
        "oneOf": [ref(name) for name in names],
    }
