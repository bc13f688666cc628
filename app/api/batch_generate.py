"""``POST /v1/batch_generate``: read, check, admit, and answer when all items have their results."""

import asyncio
from collections import deque
from hashlib import blake2b

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.api.auth import caller_of, owner_of
from app.api.batch_response import BatchResponse
from app.api.body import BodyLimits, read_json
from app.api.plain_route import PlainRoute
from app.api.state import gateway_of
from app.batches import surrogates
from app.batches.batch import Batch
from app.batches.memory import Holding
from app.batches.request import DEFAULT_PRIORITY, MISPLACED, NOT_YET, BatchRequest
from app.batches.splitting import check_list
from app.errors import InvalidRequest, NotFound, TooSlow
from app.gateway import Gateway
from app.keys.ring import Caller
from app.ranks.questions import NoAnswer
from app.validation import DECODE_ERRORS, Complaint, complaint
from engines import tasks
from engines.contract.protocol import ItemError
from engines.contract.sampling import SamplingFields

router = APIRouter(route_class=PlainRoute)
NDJSON = "application/x-ndjson"
CHECKED_PARAMS_KEPT = 4096
ASK_ANOTHER_S = 2.0  # an answer takes milliseconds, unless a structure has to be compiled
_decode = msgspec.json.Decoder(BatchRequest).decode


@router.post("/v1/batch_generate", summary="Generate for a batch of prompts")
async def batch_generate(request: Request) -> Response:
    """Runs the batch on the ranks and answers with one result per prompt, in order."""
    gateway = gateway_of(request)
    caller = caller_of(request)
    _refuse_headers(request)
    gateway.check_open()
    holding = gateway.batches.memory.open()
    try:
        batch = await _admit(request, gateway, caller, holding)
    except BaseException:
        holding.close()
        raise
    return BatchResponse(batch, gateway.batches, gateway.settings.keepalive_s)


async def _admit(request: Request, gateway: Gateway, caller: Caller, holding: Holding) -> Batch:
    """From the body to a batch that runs."""
    parsed = await _parse(await _read(request, gateway, holding), gateway)
    _check(parsed, gateway)
    parsed.priority = _priority(parsed, caller)
    resolver = gateway.batches.resolve(parsed)
    await _ask_a_rank(resolver.batch_wide.wire, gateway)
    batch = await gateway.batches.take_in(parsed, resolver, holding, owner_of(caller))
    gateway.check_open()
    gateway.batches.begin(batch, parsed.timeout_s or gateway.settings.default_timeout_s)
    return batch


async def _read(request: Request, gateway: Gateway, holding: Holding) -> bytearray:
    """The body. What has not come whole when the service ends is not waited for."""
    try:
        return await read_json(request, BodyLimits.of(gateway.settings), holding, gateway.bodies)
    except TooSlow:
        gateway.check_open()
        raise


async def _parse(body: bytearray, gateway: Gateway) -> BatchRequest:
    """The request. Half a character in one prompt is that prompt's own fault. Raises InvalidRequest."""
    await gateway.batches.turnstile.enter()  # it takes a third of a second for a body of 128 MiB
    try:
        return parse(body)
    except InvalidRequest:
        if not await surrogates.mark(body, gateway.batches.turnstile):
            raise
    return parse(body)


def parse(body: bytes | bytearray) -> BatchRequest:
    """The request, with its prompts still as JSON. Raises InvalidRequest."""
    try:
        request = _decode(body)
    except DECODE_ERRORS as error:
        found = _with_hint(complaint(error, "", BatchRequest.__struct_fields__))
        raise InvalidRequest(found.message, param=found.param) from error
    check_list(memoryview(request.prompts))
    return request


def _check(parsed: BatchRequest, gateway: Gateway) -> None:
    """What concerns the batch as a whole."""
    settings = gateway.settings
    for name in NOT_YET:
        if getattr(parsed, name):
            raise InvalidRequest(f"{name} does not exist yet: leave it out", param=name, code="unsupported")
    if parsed.model is not None and parsed.model != settings.public_name:
        raise NotFound(
            f"model {parsed.model[:200]!r} is not served here: leave model out, or name {settings.public_name!r}",
            param="model",
            code="model_not_found",
        )
    if parsed.timeout_s is not None and parsed.timeout_s > settings.max_timeout_s:
        raise InvalidRequest(
            f"timeout_s is {parsed.timeout_s:g}: at most {settings.max_timeout_s:g} is accepted (--max-timeout-s)",
            param="timeout_s",
        )


def _priority(parsed: BatchRequest, caller: Caller) -> int:
    """The batch's own, or else the nearest to the default that the API key may use."""
    limits = caller.key.limits if caller.key else None
    if parsed.priority is msgspec.UNSET:
        return limits.nearest_priority(DEFAULT_PRIORITY) if limits else DEFAULT_PRIORITY
    if limits is not None and not limits.allows_priority(parsed.priority):
        raise InvalidRequest(
            f"priority is {parsed.priority}: this API key may use {limits.priorities}",
            param="priority",
            code="priority_not_allowed",
        )
    return parsed.priority


def _refuse_headers(request: Request) -> None:
    if "idempotency-key" in request.headers:
        raise InvalidRequest(
            "Idempotency-Key does not exist yet: leave it out", param="Idempotency-Key", code="unsupported"
        )
    if request.headers.get("accept", "").strip().startswith(NDJSON):
        raise InvalidRequest(
            f"Accept: {NDJSON} (streaming) does not exist yet: leave it out", param="Accept", code="unsupported"
        )


async def _ask_a_rank(wire: bytes, gateway: Gateway) -> None:
    """The engine's own word on the batch-wide parameters, before admission; what it accepted is not asked again."""
    digest = blake2b(wire, digest_size=16).digest()  # they may be large, and are kept for long
    if digest in gateway.accepted_params:
        return
    refusal = await _first_answer(wire, gateway)
    if refusal is not None and refusal.code.retryable:
        raise gateway.unavailable(refusal.message, str(refusal.code))
    if refusal is not None:
        raise InvalidRequest(refusal.message, param=refusal.param, code=str(refusal.code))
    if len(gateway.accepted_params) >= CHECKED_PARAMS_KEPT:
        gateway.accepted_params.clear()
    gateway.accepted_params.add(digest)


async def _first_answer(wire: bytes, gateway: Gateway) -> ItemError | None:
    """Of the first rank that answers: one that lets us wait may be frozen. Raises TryLater when none does."""
    reason = gateway.reason
    waiting = deque(sorted(gateway.fleet.ready_ranks, key=lambda rank: -rank.heard_at))
    asked: set[asyncio.Task[ItemError | None]] = set()
    try:
        while waiting or asked:
            if waiting:
                rank = waiting.popleft()
                question = gateway.fleet.questions.check(rank.number, rank.incarnation, wire)
                asked.add(tasks.awaited(question, f"check on rank {rank.number}"))
            done, asked = await asyncio.wait(
                asked, timeout=ASK_ANOTHER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                try:
                    return task.result()
                except NoAnswer as error:
                    reason = str(error)
    finally:
        await tasks.end(*asked)
    raise gateway.unavailable(reason, "no_rank_ready")


def _with_hint(found: Complaint) -> Complaint:
    """Says where a field belongs that was put beside the prompts."""
    name = found.param or ""
    if "unknown field" not in found.message:
        return found
    if name in MISPLACED:
        return Complaint(found.param, f"unknown field {name!r}: {MISPLACED[name]}")
    if name in SamplingFields.__struct_fields__:
        return Complaint(found.param, f"unknown field {name!r}: it belongs in sampling_params")
    return found
