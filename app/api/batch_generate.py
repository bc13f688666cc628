"""``POST /v1/batch_generate``: read the request, have it accepted, and answer when all items have their results, or
with each as it comes."""

import asyncio
from typing import TypeAlias, cast

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.api import examples
from app.api.answer_form import NDJSON
from app.api.arriving_stream import HELD_BYTES, ArrivingStream
from app.api.auth import caller_of
from app.api.batch_response import BatchResponse
from app.api.batch_schemas import ANSWER, LINE, REQUEST_LINE, SCHEMAS
from app.api.batch_stream import BatchStream
from app.api.body import JSON_TYPE, BodyLimits, read_json
from app.api.describing import Answers
from app.api.detached_answer import answer_detached, digest_of, is_detached, is_keyed
from app.api.dry_run_response import DryRunResponse
from app.api.ndjson_body import NdjsonBody, is_ndjson, wants_stream
from app.api.plain_route import PlainRoute
from app.api.state import gateway_of
from app.batches.acceptance import OpenSink
from app.batches.detached.view import DetachedBatch
from app.batches.dry_run import DryRun
from app.batches.memory import Holding
from app.batches.request import BatchRequest
from app.batches.result_stream import ResultStream
from app.batches.results_in_memory import ResultsInMemory
from app.batches.run import BatchRun
from app.errors import InvalidRequest, TooSlow
from app.gateway import Gateway

__all__ = ["ANSWERS", "SCHEMAS", "batch_generate", "router"]
router = APIRouter(route_class=PlainRoute)
Sink: TypeAlias = ResultsInMemory | ResultStream
TYPES = f"{JSON_TYPE}, or {NDJSON} for lines"
ANSWERS = {
    "/v1/batch_generate": Answers(
        ANSWER,
        (403, 404, 408, 409, 413, 415, 422, 503),
        also={202: DetachedBatch.__name__},
        example=examples.ANSWER,
        others={DryRun.__name__: examples.DRY_RUN},
        line=LINE,
        lines=examples.LINES,
        takes=BatchRequest.__name__,
        requests=examples.REQUESTS,
        takes_line=REQUEST_LINE,
        request_lines=examples.REQUEST_LINES,
    )
}


@router.post("/v1/batch_generate", summary="Generate for a batch of prompts")
async def batch_generate(request: Request) -> Response:
    """Runs the batch on the ranks and answers with one result per prompt, in order; or, as a stream, as they come.

    A stream (`"stream": true`, or `Accept: application/x-ndjson`) is one JSON object a line. `object` says what it is:
    `batch_generation.progress` first, and whenever there is nothing else for a while, `batch_generation.result` for
    each prompt, and `batch_generation.summary` last. Without that the answer is incomplete.

    With `"background": true` the answer is 202 and the batch object, and the batch is stored: it runs on without its
    client, and goes on after a restart of the service. With an `Idempotency-Key` it is stored, too, and answered as any
    other; the same key and body give what there is and the rest as it comes.

    A body of `application/x-ndjson` has a prompt a line, with an optional first line for the batch-wide fields. It may
    be larger than memory, and its items run while it still comes. The answer is a stream. If something is wrong with
    the body later, the last line is a `batch_generation.error`, and nothing more runs.

    With `"dry_run": true` nothing runs: the answer gives the tokens of each prompt, by the model's own tokenizer, those
    that would be refused and why, and how long the batch would take.
    """
    gateway = gateway_of(request)
    gateway.availability.check_open()
    holding = gateway.memory.open()
    try:
        if is_ndjson(request):
            return await _answer_lines(request, gateway, holding)
        body = await _read(request, gateway, holding)
        asked = await gateway.acceptance.read(body)
        if asked.dry_run:
            gateway.availability.check()
            return DryRunResponse(gateway.dry_runs.run(asked, caller_of(request), holding), holding)
        if is_detached(request, asked):
            digest = await asyncio.to_thread(digest_of, body) if is_keyed(request) else None
            answer = await answer_detached(request, gateway, asked, gateway.acceptance.cut(asked), lambda: digest)
            holding.close()
            return answer
        gateway.availability.check()
        sink = _sink(asked, request, gateway, holding)
        run = await gateway.acceptance.accept(asked, caller_of(request), holding, sink)
    except BaseException:
        holding.close()
        raise
    return _answer(run, gateway)


async def _answer_lines(request: Request, gateway: Gateway, holding: Holding) -> Response:
    """Begins the batch of an NDJSON body, whose items come while it runs."""
    holding.take(HELD_BYTES)
    body = NdjsonBody(
        request, gateway.settings, gateway.bodies, gateway.acceptance.turnstile, is_hashed=is_keyed(request)
    )
    options = await body.options()
    if is_detached(request, options):
        answer = await answer_detached(request, gateway, options, body.bodies(), body.digest)
        holding.close()
        return answer
    gateway.availability.check()
    _check_attached(options, request)
    arrival = await gateway.arrivals.begin(options, caller_of(request), holding)
    return ArrivingStream(arrival, body.bodies(), gateway)


def _check_attached(options: BatchRequest, request: Request) -> None:
    """The answer to lines is a stream. Raises InvalidRequest when something else is asked for."""
    if options.dry_run:
        raise InvalidRequest("dry_run needs a JSON body: send the prompts as one, or leave it out", param="dry_run")
    if not wants_stream(request, options.stream):
        raise InvalidRequest(
            "stream is false: the answer to an NDJSON body is a stream, so leave it out", param="stream"
        )


def _sink(asked: BatchRequest, request: Request, gateway: Gateway, holding: Holding) -> OpenSink[Sink]:
    """Where the results go. Raises InvalidRequest when the headers refuse the form that the body asks for."""
    if wants_stream(request, asked.stream):
        return lambda _: ResultStream(holding, gateway.settings.stream_window_bytes)
    return lambda size: ResultsInMemory(size, holding)


def _answer(run: BatchRun[Sink], gateway: Gateway) -> Response:
    """In the form that its sink is made for."""
    cancel, keepalive_s = gateway.runs.cancel, gateway.settings.keepalive_s
    if isinstance(run.sink, ResultStream):
        return BatchStream(cast("BatchRun[ResultStream]", run), cancel, keepalive_s)
    return BatchResponse(cast("BatchRun[ResultsInMemory]", run), cancel, keepalive_s)


async def _read(request: Request, gateway: Gateway, holding: Holding) -> bytearray:
    """The body. What has not come whole when the service ends is not waited for."""
    try:
        return await read_json(request, BodyLimits.of(gateway.settings), holding, gateway.bodies, TYPES)
    except TooSlow:
        gateway.availability.check()
        raise
