"""Requests of all kinds, made up from /openapi.json: never a 500, and every answer is what the document says.

Schemathesis tries the examples, the edges of every schema, thousands of valid and invalid requests, and sequences of
them. Derandomised: they are the same every time.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.keys.store import KeysFile
from tests.service import serving, until

DEADLINE_S = 900  # it takes a quarter of a minute
COMMAND = str(Path(sys.executable).with_name("schemathesis"))
HOOKS = str(Path(__file__).with_name("ndjson_hooks.py"))
CONFIGURATION = r"""
continue-on-failure = true
request-timeout = 60.0
[generation]
deterministic = true
database = "none"
max-examples = 30
# A valid request may still be refused, by a limit that is a setting, or by the engine.
[checks.positive_data_acceptance]
enabled = false
# An invalid prompt is the error of its item, and the batch is answered with 200.
[[operations]]
include-path = "/v1/batch_generate"
checks.negative_data_rejection.enabled = false
# The operator's hand would take the ranks away from under the other requests.
[[operations]]
include-path-regex = "^/v1/ranks/.*/(drain|restart|resume)$"
enabled = false
"""


@pytest.mark.timeout(DEADLINE_S + 300)
def test_no_request_makes_the_gateway_fail_or_answer_what_its_document_does_not_say(tmp_path: Path) -> None:
    keys = KeysFile(tmp_path / "keys.json")
    secret = keys.create(
        "fuzzing", admin=True
    ).secret  # so that requests without a key are refused, as the document says
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(f'headers = {{ Authorization = "Bearer {secret}" }}\n{CONFIGURATION}')
    with serving("--default-timeout-s", "20", "--api-keys-file", str(keys.path), api_key=secret) as service:
        done = subprocess.run(
            [COMMAND, "--config-file", str(configuration), "run", f"{service.url}/openapi.json", "--no-color"],
            cwd=tmp_path,
            env=os.environ | {"SCHEMATHESIS_HOOKS": HOOKS},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-1_000:]
        answered = service.metric("phalanx_http_requests_total", route="/v1/batch_generate", status="200")
        refused = service.metric("phalanx_http_requests_total", route="/v1/batch_generate", status="400")
        assert min(answered, refused) > 100, "it has tried both"
        assert service.metric("phalanx_http_requests_total", status="500") == 0
        assert service.batch(["still fine"])["request_counts"]["ok"] == 1
        until(service.is_idle, "something is still there")
        assert [rank["incarnation"] for rank in service.ranks()] == [1, 1]
