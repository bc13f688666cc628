"""Answers as vLLM's own server gives them, to every request of corpus/ but for what corpus/wanted.json says.

What is wanted is listed by request, place by place: a difference that is not listed fails, and so does one that is
listed and no longer there.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from engines.contract.exchanges import BATCH_GENERATE
from tests.clients import answers
from tests.clients.answers import Request, differences
from tests.clients.server import Server
from tests.service import Json, bearer

REQUESTS = {request.name: request for request in answers.requests()}
WANTED: dict[str, list[str]] = {
    name: places for kind in json.loads(answers.WANTED.read_text()) for name, places in kind["requests"].items()
}
AT_ONCE = 4
ANTHROPICS = ("/v1/messages", "/v1/messages/count_tokens")
TYPES = {404: "not_found_error", 429: "rate_limit_error", 503: "service_unavailable_error"}
Pair = tuple[httpx.Response, httpx.Response]  # ours, and vLLM's own


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, server: Server, straight: Server) -> Iterator[Callable[[str], Pair]]:
    """Gives both answers to a request. All that this run is about are sent, some at a time, when it begins."""
    if BATCH_GENERATE not in server.routes():
        pytest.skip("it is about Phalanx")
    tests = (getattr(item, "callspec", None) for item in request.session.items if item.path == request.path)
    names = [str(test.params["name"]) for test in tests if test is not None]
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(_client(which)) for which in (server, straight))
        pool = stack.enter_context(ThreadPoolExecutor(AT_ONCE))

        def send(name: str) -> Pair:
            asked = REQUESTS[name]
            return asked.send(ours, server.model), asked.send(theirs, straight.model)

        pairs: dict[str, Future[Pair]] = {name: pool.submit(send, name) for name in names}
        yield lambda name: pairs[name].result()


def _client(server: Server) -> httpx.Client:
    headers = bearer(server.api_key) if server.api_key else {}
    return httpx.Client(base_url=server.url, headers=headers, timeout=answers.TIMEOUT_S, trust_env=False)


@pytest.mark.parametrize("name", REQUESTS)
def test_it_is_answered_as_by_vllm_itself(name: str, pair: Callable[[str], Pair]) -> None:
    ours, theirs = pair(name)
    found = _found(REQUESTS[name], ours, theirs)
    assert sorted(found) == sorted(WANTED.get(name, [])), f"ours: {ours.text[:2000]}\nvLLM's: {theirs.text[:2000]}"


def test_what_is_wanted_is_about_requests_that_there_are() -> None:
    assert WANTED.keys() <= REQUESTS.keys()


def _found(request: Request, ours: httpx.Response, theirs: httpx.Response) -> set[str]:
    """Where they differ. Of answers with different statuses nothing else is compared."""
    if ours.status_code >= 400:
        _check_refusal(request, ours)
    if ours.status_code != theirs.status_code:
        return {f"status {ours.status_code}, not {theirs.status_code}"}
    if ours.status_code >= 400:
        return differences(*(_said(request, answer) for answer in (ours, theirs)))
    found = differences(answers.content_of(ours), answers.content_of(theirs))
    return found | differences(*({"content-type": answer.headers["content-type"]} for answer in (ours, theirs)))


def _said(request: Request, answer: httpx.Response) -> Json:
    """What a refusal says, whatever shape it has. Our types and codes are other words than vLLM's, everywhere."""
    body = answer.json()
    error = body.get("error", {"message": body.get("detail")})
    if request.path in ANTHROPICS:
        return {"message": error["message"]}
    return {"message": error["message"], "param": (error.get("param") or "").removeprefix("body.")}


def _check_refusal(request: Request, answer: httpx.Response) -> None:
    """That OpenAI's classes can read it, or Anthropic's on its paths."""
    body, status = answer.json(), answer.status_code
    if request.path in ANTHROPICS:
        assert body.keys() == {"type", "error", "request_id"}
        assert body["type"] == "error"
        assert body["request_id"] == answer.headers["x-request-id"]
        assert body["error"].keys() == {"type", "message", "details"}
        return
    assert body.keys() == {"error"}
    error = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert isinstance(error["code"], str)
    assert error["type"] == TYPES.get(status, "internal_server_error" if status >= 500 else "invalid_request_error")
