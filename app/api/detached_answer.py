"""The answer to a batch that outlives its connection: 202 at once, or, for one with an Idempotency-Key, its results to
whoever waits for them."""

from collections.abc import Callable
from hashlib import blake2b

from fastapi import Request
from fastapi.responses import Response

from app.api.answer_form import NDJSON
from app.api.auth import caller_of
from app.api.body import DIGEST_BYTES, JSON_TYPE
from app.api.detached_batches import accepted
from app.api.ndjson_body import wants_stream
from app.api.piped_response import PipedResponse, accepts_gzip
from app.batches.detached.acceptance import Bodies
from app.batches.detached.reading import Wanted
from app.batches.request import BatchRequest
from app.errors import InvalidRequest
from app.gateway import Gateway

KEY_HEADER = "idempotency-key"


def is_detached(request: Request, asked: BatchRequest) -> bool:
    """Whether the batch outlives its connection. Raises InvalidRequest for what does not go together."""
    if asked.background and asked.stream:
        raise InvalidRequest(
            "background and stream are both true: leave stream out, and read the results at "
            "/v1/batch_generate/ID/results?follow=1",
            param="stream",
        )
    return bool(asked.background) or is_keyed(request)


def is_keyed(request: Request) -> bool:
    """Whether it has an Idempotency-Key."""
    return KEY_HEADER in request.headers


def digest_of(body: bytearray) -> bytes:
    """By which a body is told apart from others of the same key."""
    return blake2b(body, digest_size=DIGEST_BYTES).digest()


async def answer_detached(
    request: Request, gateway: Gateway, asked: BatchRequest, bodies: Bodies, digest: Callable[[], bytes | None]
) -> Response:
    """Takes the batch in, unless its key stands for it already."""
    caller, key = caller_of(request), request.headers.get(KEY_HEADER)
    streams = not asked.background and wants_stream(request, asked.stream)
    acceptance, known_digest = gateway.detached.acceptance, digest()
    stored = None
    if key is not None and known_digest is not None:
        stored = await acceptance.known(caller, key, known_digest)
    if stored is None:
        if asked.dry_run:
            raise InvalidRequest("dry_run runs nothing that could be stored: leave background out", param="dry_run")
        stored = await acceptance.accept(asked, bodies, caller, key, digest)
    if asked.background:
        return accepted(gateway, stored)
    results = gateway.detached.results
    if streams:
        return PipedResponse(results.lines(stored, Wanted(is_following=True)), NDJSON, gzip=accepts_gzip(request))
    return PipedResponse(results.whole(stored), JSON_TYPE, gzip=accepts_gzip(request))
