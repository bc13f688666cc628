"""A batch in the background on real vLLM, expert-parallel: its gateway is killed in the midst of it, and then another
model is served."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.service import BATCH, START_DEADLINE_S, Json, Service, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
GREEDY = {"temperature": 0.0, "max_tokens": 8}
ITEMS = [f"{index}. The capital of France is" for index in range(2000)]


@contextmanager
def started(data: Path, model: Path, *flags: str, **more: Any) -> Iterator[Service]:
    """A service whose gateway the test ends as it likes. Takes what Service takes."""
    service = Service(str(model), "--data-dir", str(data), "--drain-timeout-s", "5", *flags, engine="vllm", **more)
    try:
        service.start()
        yield service
    except BaseException:
        print(service.log[-5000:])  # noqa: T201  pytest shows it with the failure
        raise
    finally:
        service.discard()


def look(service: Service, batch: str) -> Json:
    found: Json = service.client.get(f"{BATCH}/{batch}").json()
    return found


def kill(service: Service) -> None:
    """Its ranks end with it."""
    service.signal(signal.SIGKILL)
    service.wait()
    until(lambda: not service.processes(), "its processes stay", 30)


def test_a_kill_of_the_gateway_changes_no_text_and_another_model_holds_the_batch(
    tmp_path: Path, moe_model: Path, dense_model: Path
) -> None:
    data = tmp_path / "data"
    with started(data, moe_model) as service:
        posted = service.post(ITEMS, sampling_params=GREEDY, background=True)
        assert posted.status_code == 202, "it is taken while the ranks load"
        batch = posted.json()["id"]
        service.wait_ready()
        undisturbed = [
            result["outputs"][0]["text"] for result in service.batch(ITEMS, sampling_params=GREEDY)["results"]
        ]
        until(lambda: look(service, batch)["ended_at"], "it does not end", START_DEADLINE_S)
        second = service.post(ITEMS, sampling_params=GREEDY, background=True).json()["id"]
        until(lambda: 200 < look(service, second)["request_counts"]["ok"] < 1800, "it does not run")
        kill(service)
    with started(data, dense_model) as service:
        held = until(lambda: (found := look(service, second))["status"] == "held" and found, "it is not held")
        assert "model was" in held["reason"]
        kill(service)
    with started(data, moe_model) as service:
        had = look(service, second)["request_counts"]["ok"]
        assert 200 < had < 2000
        service.wait_ready()
        until(lambda: look(service, second)["ended_at"], "it does not end", START_DEADLINE_S)
        lines = service.client.get(f"{BATCH}/{second}/results").text.splitlines()
        *results, summary = [json.loads(line) for line in lines]
        assert summary["request_counts"]["ok"] == len(results) == len(ITEMS)
        texts = {result["index"]: result["outputs"][0]["text"] for result in results}
        assert [texts[index] for index in range(len(ITEMS))] == undisturbed
        began = time.monotonic()
        service.stop()
        assert time.monotonic() - began < 30
