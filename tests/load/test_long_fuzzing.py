"""Hundreds of requests a route, made up from /openapi.json: never a 500, and every answer is what the document says."""

from pathlib import Path

import pytest

from tests.fuzzing import Fuzzing, Keys, check_survived
from tests.service import serving

DEADLINE_S = 3600
pytestmark = [pytest.mark.load, pytest.mark.timeout(2 * DEADLINE_S + 300)]
OPERATORS_HAND = "^/v1/ranks/(.*/(drain|restart)|scale)$"  # it would take the ranks away from under the other requests


def test_no_request_of_hundreds_makes_the_gateway_fail_or_answer_what_its_document_does_not_say(tmp_path: Path) -> None:
    """With a user's key, and with an admin's."""
    keys = Keys.made(tmp_path)
    fuzzing = Fuzzing(examples=300, deadline_s=DEADLINE_S)
    flags = ("--default-timeout-s", "20", "--api-keys-file", str(keys.file))
    with serving(*flags, api_key=keys.user) as service:
        fuzzing.run(service, tmp_path, keys.user)
        fuzzing.run(service, tmp_path, keys.admin, "--exclude-path-regex", OPERATORS_HAND)
        check_survived(service)
