"""/openapi.json against the structs it is made from, the code that reads requests, and what is really answered."""

import asyncio
from typing import Any

import jsonschema
import msgspec
import pytest
from fastapi import FastAPI
from openapi_spec_validator import validate
from starlette.routing import Route

from app.api.arriving_stream import BatchError
from app.api.auth import OPEN
from app.api.batch_response import BatchHead, BatchTail
from app.api.batch_schemas import ANSWER as ANSWER_SCHEMA
from app.api.batch_schemas import DETACHED_LINE, MADE_BY_RANKS, OPTIONS, REQUEST_LINE
from app.api.batch_schemas import LINE as LINE_SCHEMA
from app.api.describing import Described
from app.api.examples import ANSWER, DRY_RUN, ERRORS, LINES, REQUEST_LINES, REQUESTS
from app.api.exchange_schemas import EXAMPLES, SHAPES
from app.api.limit_headers import LIMIT_ITEMS
from app.api.openapi import describe
from app.api.schemas import OF_EVERY_ROUTE
from app.batches.lines import LineReader
from app.batches.parsing import parse, parse_options
from app.batches.request import BatchRequest, PromptObject, bytes_of
from app.batches.sampling import ParamsRefused, SamplingResolver
from app.batches.splitting import split
from app.batches.turnstile import Turnstile
from app.errors import InvalidRequest, TryLater, body_of
from app.factory import RESOURCES
from app.settings.declaration import Settings
from engines.contract.exchanges import Exchange
from engines.contract.sampling import RepetitionDetection, SamplingFields, StructuredOutputs
from engines.simulated import answers
from engines.vllm_engine import outputs as vllm_outputs

Schema = dict[str, Any]
DESCRIBED = (*OF_EVERY_ROUTE, *(found for resource in RESOURCES for found in resource.SCHEMAS))


PAGES = {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}  # the document itself, and what shows it


@pytest.fixture(scope="module")
def app() -> FastAPI:
    app = FastAPI(title="Phalanx", version="1")
    for resource in RESOURCES:
        app.include_router(resource.router)
    describe(app, RESOURCES)
    return app


@pytest.fixture(scope="module")
def document(app: FastAPI) -> Schema:
    assert app.openapi() is app.openapi()  # made once
    return app.openapi()


def schema_of(document: Schema, name: str) -> Schema:
    found: Schema = document["components"]["schemas"][name]
    return found


def complaints(document: Schema, name: str, value: object) -> list[str]:
    """What a client's validator finds wrong with a value."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(value)]


def test_the_document_is_valid(document: Schema) -> None:
    validate(document)


@pytest.mark.parametrize("described", DESCRIBED, ids=lambda described: described.name)
def test_a_schema_has_every_field_of_its_struct(document: Schema, described: Described) -> None:
    struct = described.struct
    is_part_of_answer = struct in (BatchHead, BatchTail)
    schema = schema_of(document, ANSWER_SCHEMA if is_part_of_answer else struct.__name__)
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    assert set(fields) <= set(schema["properties"])
    assert is_part_of_answer or set(fields) == set(schema["properties"])
    if not described.is_read:
        always = {name for name, field in fields.items() if field.default is not msgspec.UNSET}
        assert always == set(schema["required"]) & set(fields)


def test_nothing_is_left_undescribed(document: Schema) -> None:
    known = {described.name for described in DESCRIBED} - {BatchHead.__name__, BatchTail.__name__}
    assembled = {ANSWER_SCHEMA, LINE_SCHEMA, DETACHED_LINE, OPTIONS, REQUEST_LINE}
    assert set(document["components"]["schemas"]) == known | set(MADE_BY_RANKS) | assembled
    for name, schema in document["components"]["schemas"].items():
        for field, found in schema.get("properties", {}).items():
            assert found, f"{name}.{field} is JSON as it came: say in its Described what it may hold"
            assert found.get("items") != {}, f"{name}.{field} has entries that are JSON as they came"


@pytest.mark.parametrize("struct", [answers.Output, vllm_outputs.Output, vllm_outputs.TokenLogprob])
def test_what_the_engines_encode_is_described(document: Schema, struct: type[msgspec.Struct]) -> None:
    assert set(struct.__struct_fields__) <= set(schema_of(document, struct.__name__)["properties"])


def test_every_route_is_in_the_document_but_its_own_pages(app: FastAPI, document: Schema) -> None:
    routes = [route for route in app.routes if isinstance(route, Route) and route.path not in PAGES]
    described = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    answered = {(method, route.path_format) for route in routes for method in route.methods or ()}
    assert {(method, path) for method, path in answered if method != "HEAD"} == described
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            ends = ("/cancel", "/drain", "/restart", "/batches/{batch_id}/resume")
            takes_none = method in ("get", "delete") or path.endswith(ends)
            assert ("requestBody" in operation) != takes_none, f"{method} {path}"
            for body in operation.get("requestBody", {}).get("content", {}).values():
                assert body["schema"]


@pytest.mark.parametrize("path", Exchange)
def test_the_example_of_an_exchange_is_valid(document: Schema, path: Exchange) -> None:
    body, _ = SHAPES[path]
    assert complaints(document, body.__name__, EXAMPLES[path]) == []
    assert complaints(document, body.__name__, {"priority": "first"})


def test_every_route_has_its_answers_in_one_shape(document: Schema) -> None:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            answers = operation["responses"]
            assert {"400", "500"} < set(answers), path
            assert {"200", "202"} & set(answers), path
            assert ({"401", "429"} <= set(answers)) == (operation["security"] == [{"ApiKey": []}]) == (path not in OPEN)
            for status, answer in answers.items():
                assert "X-Request-ID" in answer["headers"]
                assert ("Retry-After" in answer["headers"]) == (status in ("429", "503"))
                assert ("WWW-Authenticate" in answer["headers"]) == (status == "401")
                assert (LIMIT_ITEMS in answer["headers"]) == (path not in OPEN and status != "401")
    batch = document["paths"]["/v1/batch_generate"]["post"]
    refusals = {"400", "401", "403", "404", "408", "409", "413", "415", "422", "429", "500", "503"}
    assert set(batch["responses"]) == {"200", "202"} | refusals
    assert set(batch["responses"]["200"]["content"]) == {"application/json", "application/x-ndjson"}
    one_rank = document["paths"]["/v1/ranks/{rank}"]["get"]["responses"]
    assert set(one_rank) == {"200", "400", "401", "404", "429", "500"}
    assert set(document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == {"text/plain"}
    unavailable = document["paths"]["/health"]["get"]["responses"]["503"]["content"]["application/json"]
    assert unavailable["schema"]["$ref"].endswith("/Health")


@pytest.mark.parametrize("name", REQUESTS)
def test_examples_of_requests_are_valid_and_accepted(document: Schema, name: str) -> None:
    value = REQUESTS[name]["value"]
    assert complaints(document, "BatchRequest", value) == []
    prompts = parse(msgspec.json.encode(value)).prompts
    found = asyncio.run(split(memoryview(prompts), 100, 1000, Turnstile()))
    assert list(found) == [msgspec.json.encode(one) for one in value["prompts"]]


def test_an_example_of_lines_is_valid_and_accepted(document: Schema) -> None:
    for line in REQUEST_LINES:
        assert complaints(document, REQUEST_LINE, line) == []
    reader = LineReader(1000, Turnstile())
    options, *prompts = [msgspec.json.encode(line) for line in REQUEST_LINES]
    assert asyncio.run(reader.read([options, *prompts])) == prompts
    assert bytes_of(reader.options.sampling_params) == msgspec.json.encode(REQUEST_LINES[0]["sampling_params"])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"priority": 3, "timeout_s": 5, "sampling_params": {"n": 2}, "model": None},
        {"prompts": []},
        {"prompt": "a"},
        {"priority": "3"},
        {"max_tokens": 3},
    ],
)
def test_options_are_valid_where_they_are_accepted(document: Schema, fields: Schema) -> None:
    line = {"object": "batch_generation.options", **fields}
    try:
        parse_options(msgspec.json.encode(line))
    except InvalidRequest:
        assert complaints(document, REQUEST_LINE, line)
    else:
        assert complaints(document, REQUEST_LINE, line) == []


def test_the_error_at_the_end_of_a_stream_is_a_line_of_it(document: Schema) -> None:
    error = BatchError(
        id="batchgen-1", error=body_of(TryLater("full", status=503, code="spool_full", retry_after_s=3.5))
    )
    assert complaints(document, LINE_SCHEMA, msgspec.to_builtins(error)) == []


def test_examples_of_answers_are_valid(document: Schema) -> None:
    assert complaints(document, ANSWER_SCHEMA, ANSWER) == []
    assert complaints(document, "DryRun", DRY_RUN) == []
    for line in LINES:
        assert complaints(document, LINE_SCHEMA, line) == []
    for example in ERRORS.values():
        assert complaints(document, "ErrorAnswer", example) == []


PROMPTS: Schema = {"prompts": ["a"]}


@pytest.mark.parametrize(
    "value",
    [
        PROMPTS,
        dict.fromkeys(BatchRequest.__struct_fields__) | {"prompts": [[1, 2]]},
        {"prompts": None},
        PROMPTS | {"timeout_s": 0.5, "priority": -5, "return_token_ids": True, "return_prompt": True},
        {},
        {"prompts": []},
        {"prompts": "a"},
        PROMPTS | {"max_tokens": 5},
        PROMPTS | {"timeout_s": 0},
        PROMPTS | {"timeout_s": "5"},
        PROMPTS | {"priority": 2**31},
        PROMPTS | {"model": 5},
        PROMPTS | {"stream": "false"},
    ],
)
def test_requests_are_valid_where_they_are_accepted(document: Schema, value: Schema) -> None:
    try:
        parse(msgspec.json.encode(value))
    except InvalidRequest:
        assert complaints(document, "BatchRequest", value)
    else:
        assert complaints(document, "BatchRequest", value) == []


@pytest.mark.parametrize(
    "value",
    [
        {"temperature": 1, "stop": "x", "seed": -1, "logit_bias": {"5": 1.5}},
        {"n": None, "stop": ["a", "b"], "structured_outputs": {"json": {"type": "object"}}},
        dict.fromkeys(SamplingFields.__struct_fields__),
        {"structured_outputs": dict.fromkeys(StructuredOutputs.__struct_fields__) | {"regex": "a"}},
        {"repetition_detection": dict.fromkeys(RepetitionDetection.__struct_fields__)},
        {"repetition_detection": {"max_pattern_size": 4}},
        {"n": 0},
        {"n": 1.5},
        {"temperature": "hot"},
        {"seed": 2**63},
        {"repetition_penalty": 1e-10},
        {"top_p": 0},
        {"temperature": 1e308},
        {"logit_bias": {"5": 1e308}},
        {"logit_bias": dict.fromkeys(map(str, range(1025)), 1)},
        {"allowed_token_ids": [1] * 1025},
        {"stop": [1]},
        {"allowed_token_ids": []},
        {"structured_outputs": {"regex": 1}},
        {"structured_outputs": {"schema": {}}},
        {"output_kind": 2},
        {"max_token": 2},
    ],
)
def test_sampling_parameters_are_valid_where_they_are_accepted(document: Schema, value: Schema) -> None:
    try:
        SamplingResolver(Settings(), msgspec.json.encode(value))
    except ParamsRefused:
        assert complaints(document, "SamplingFields", value)
    else:
        assert complaints(document, "SamplingFields", value) == []


def test_a_prompt_object_has_one_of_prompt_and_messages(document: Schema) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    nulls = dict.fromkeys(PromptObject.__struct_fields__)
    for value in ({"prompt": "a"}, nulls | {"prompt": [1]}, nulls | {"messages": messages, "tools": [{}]}):
        assert complaints(document, "PromptObject", value) == []
    for value in ({}, {"prompt": "a", "messages": messages}, {"prompt": None}, {"messages": [{"content": "Hi"}]}):
        assert complaints(document, "PromptObject", value)
