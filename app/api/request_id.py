"""The id of a request: the client's own where it is safe to log and to send back, or else a new one."""

import re

from starlette.requests import Request

from app.fresh_ids import fresh_id

REQUEST_ID = "phalanx.request_id"  # in the ASGI scope
REQUEST_ID_HEADER = "X-Request-ID"
ON_THE_WIRE = REQUEST_ID_HEADER.lower().encode()
SAFE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/=+@-]{1,128}")


def choose_request_id(given: str | None) -> str:
    """The id of a request whose header says `given`."""
    return given if given is not None and SAFE_REQUEST_ID.fullmatch(given) else f"req-{fresh_id()}"


def request_id_of(request: Request) -> str:
    """The id that the front door has given to this request."""
    return str(request.scope[REQUEST_ID])
