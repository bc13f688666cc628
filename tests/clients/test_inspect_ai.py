"""Inspect: a small evaluation, request by request and as one batch."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.environments import Client
from tests.clients.server import Server
from tests.service import Json

EVALUATION = Path(__file__).with_name("programs") / "inspect_capitals.py"
TIMEOUT_S = 240
QUESTIONS = 36
KNOWN = 0.6  # of the capitals, at least; the built-in model knows five in six when it is asked like this


def evaluate(inspect: Client, server: Server, *flags: str) -> Json:
    """The log that inspect writes."""
    logs = inspect.home / "logs"
    inspect.run(
        *("inspect", "eval", EVALUATION.name, "--display", "plain", "--no-fail-on-error", *flags),
        *("--log-format", "json", "--log-dir", str(logs)),
        timeout_s=TIMEOUT_S,
        cwd=EVALUATION.parent,  # it takes no absolute path
        variables={
            "OPENAI_API_KEY": server.shown_key,
            "OPENAI_BASE_URL": server.openai_url,
            "PHALANX_API_KEY": server.shown_key,
            "PHALANX_BASE_URL": server.openai_url,
        },
    )
    (log,) = logs.glob("*.json")
    found: Json = json.loads(log.read_text())
    return found


def check(log: Json) -> None:
    assert log["status"] == "success", log.get("error")
    assert [sample["error"] for sample in log["samples"] if sample.get("error")] == []
    assert len(log["samples"]) == log["results"]["completed_samples"] == QUESTIONS
    assert log["results"]["scores"][0]["metrics"]["accuracy"]["value"] >= KNOWN


def test_an_evaluation_runs(client: Callable[[str], Client], server: Server) -> None:
    check(evaluate(client("inspect-ai"), server, "--model", f"openai-api/phalanx/{server.model}"))


def test_an_evaluation_runs_as_a_batch(client: Callable[[str], Client], server: Server, tmp_path: Path) -> None:
    if "/v1/batches" in server.lacks():
        pytest.skip(f"{server.url} has no /v1/batches")
    batches = tmp_path / "batches.json"  # by default it waits 15 s before it sends one, and between looks at it
    batches.write_text(json.dumps({"size": QUESTIONS, "send_delay": 2, "tick": 1}))
    # Its openai provider alone knows batches; by default that one takes the model for one that is asked for responses.
    model = ("--model", f"openai/{server.model}", "-M", "responses_api=false")
    log = evaluate(client("inspect-ai"), server, *model, "--batch", str(batches))
    check(log)
    assert log["eval"]["model_generate_config"]["batch"]["size"] == QUESTIONS
