"""What the log says of a refused request: where and why, in words of ours alone. The message is for the client."""

import re

from starlette.types import Scope

from app.batches.request import BatchRequest, PromptObject
from app.errors import RequestError
from app.logs import get_logger
from engines.contract.sampling import RepetitionDetection, SamplingFields, StructuredOutputs

logger = get_logger("http")
UNKNOWN_ROUTE = "other"
UNKNOWN_NAME = "?"
HEADERS = (
    "Accept",
    "Authorization",
    "Content-Encoding",
    "Content-Length",
    "Content-Type",
    "Host",
    "Idempotency-Key",
    "Origin",
    "Range",
)
# Names that may stand in a param. Any other is the client's own, and may be a prompt that slipped.
KNOWN = frozenset(
    name
    for struct in (BatchRequest, PromptObject, SamplingFields, StructuredOutputs, RepetitionDetection)
    for name in struct.__struct_fields__
) | {*HEADERS, "rank", "role", "content", "file", "purpose", "expires_after"}
PART = re.compile(r"(?P<name>[^.\[\]]*)(?P<index>(\[\d+\])*)")


def log_refusal(scope: Scope, error: RequestError) -> None:
    """One fact for every answer that is not what was asked for."""
    logger.info(
        "request_refused",
        method=scope["method"],
        route=route_of(scope),
        status=error.status,
        code=error.code,
        param=place_in_log(error.param),
    )


def route_of(scope: Scope) -> str:
    """The route's own path, so that no id becomes a label, and nothing that a client made up gets into the log."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else UNKNOWN_ROUTE


def place_in_log(param: str | None) -> str | None:
    """A place in the request, such as ``prompts[3].sampling_params.top_p``, without names that are not ours."""
    return None if param is None else ".".join(map(_part, param.split(".")))


def _part(part: str) -> str:
    found = PART.fullmatch(part)
    return part if found is not None and found["name"] in KNOWN else UNKNOWN_NAME
