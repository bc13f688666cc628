"""Requests of all kinds, made up from /openapi.json: never a 500, and every answer is what the document says.

Schemathesis tries the examples, the edges of every schema, valid and invalid requests, and sequences of them.
Derandomised: they are the same every time. `make load` tries hundreds of each.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.api.auth import OPEN
from tests.fuzzing import Fuzzing, Keys, check_survived
from tests.service import Service, bearer, serving

DEADLINE_S = 900  # it takes a quarter of a minute
# The one has thousands of edges, which take as long as all other routes together; to the others there is one answer.
SHORT = Fuzzing(
    examples=8,
    more="""
[[operations]]
include-name = "POST /v1/batch_generate"
phases.coverage.enabled = false
generation.max-examples = 30
[[operations]]
include-path-regex = "^/(pooling|score|rerank|v1/responses|v1/messages(/count_tokens)?)$"
phases.coverage.enabled = false
generation.max-examples = 4
""",
)
SEES_MORE = "^/(metrics|health|v1/(usage|nodes|ranks(/{rank})?|files|batches|batch_generate))$"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys.made(tmp_path_factory.mktemp("fuzzing"))


@pytest.fixture(scope="module")
def service(keys: Keys) -> Iterator[Service]:
    with serving("--default-timeout-s", "20", "--api-keys-file", str(keys.file), api_key=keys.user) as service:
        yield service


@pytest.mark.timeout(DEADLINE_S + 300)
def test_no_request_makes_the_gateway_fail_or_answer_what_its_document_does_not_say(
    service: Service, keys: Keys, tmp_path: Path
) -> None:
    """With a user's key on all routes, and with an admin's on those that show admins more."""
    SHORT.run(service, tmp_path, keys.user)
    reading = ("--include-path-regex", SEES_MORE, "--include-method", "GET", "--phases", "fuzzing")
    SHORT.run(service, tmp_path, keys.admin, *reading)
    for path in ("/v1/batch_generate", "/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/batches"):
        for status in ("200", "400"):
            assert service.metric("phalanx_http_requests_total", route=path, status=status), f"no {status} of {path}"
    check_survived(service)


def test_no_route_answers_without_a_key_but_those_that_are_open_to_all(service: Service) -> None:
    paths = service.client.get("/openapi.json").json()["paths"]
    for headers in ({"Authorization": ""}, bearer("wrong")):
        for path, operations in paths.items():
            for method in operations:
                answer = service.client.request(method, path, headers=headers)
                assert (answer.status_code == 401) == (path not in OPEN), f"{method} {path}: {answer.status_code}"
