"""What the log says of a refused request: where in it, but nothing that a client made up."""

import json

import pytest

from app import logs
from app.api.refusals import log_refusal, place_in_log
from app.errors import InvalidRequest


@pytest.mark.parametrize(
    ("param", "place"),
    [
        (None, None),
        ("prompts", "prompts"),
        ("prompts[3].sampling_params.top_p", "prompts[3].sampling_params.top_p"),
        ("sampling_params.structured_outputs.json", "sampling_params.structured_outputs.json"),
        ("prompts[0].messages[1].content[2]", "prompts[0].messages[1].content[2]"),
        ("Content-Type", "Content-Type"),
        ("rank", "rank"),
        ("my secret", "?"),
        ("sampling_params.my secret", "sampling_params.?"),
        ("prompts[0].a.b[c].d", "prompts[0].?.?.?"),
        ("top_p secret", "?"),
        ("prompts[x]", "?"),
        ("", "?"),
    ],
)
def test_a_place_keeps_the_names_of_the_api_alone(param: str | None, place: str | None) -> None:
    assert place_in_log(param) == place


def test_a_refusal_is_one_fact_without_its_message(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    scope = {"method": "POST", "path": "/v1/secret"}
    log_refusal(scope, InvalidRequest("temperature is 'secret'", param="sampling_params.temperature", code="odd"))
    fact = json.loads(capfd.readouterr().err)
    assert {name: fact[name] for name in ("event", "level", "method", "route", "status", "code", "param")} == {
        "event": "request_refused",
        "level": "info",
        "method": "POST",
        "route": "other",
        "status": 400,
        "code": "odd",
        "param": "sampling_params.temperature",
    }
    assert "secret" not in str(fact)
