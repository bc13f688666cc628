"""Traces of a running service, as a collector gets them: OTLP over HTTP, from the gateway and from every rank."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.collector import Collector, Seen, collecting
from tests.service import COMMAND, Service, serving, until

TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT = "b7ad6b7169203331"
PROMPT = "a canary of a prompt"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def service(collector: Collector) -> Iterator[Service]:
    """Two ranks; spans arrive soon."""
    variables = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_EXPORTER_OTLP_HEADERS": "x-token=abc"}
    flags = ["--otlp-traces-endpoint", collector.endpoint.removesuffix("/v1/traces"), "--trace-items", "3"]
    with serving(*flags, variables=variables, crash_on="boom", choke_on="bone", step_ms=1) as running:
        yield running


def ask(service: Service, prompts: list[object], trace_id: str, flags: str = "01") -> int:
    """Sends a batch in a client's trace."""
    headers = {"traceparent": f"00-{trace_id}-{CLIENT}-{flags}"}
    body = {"prompts": prompts, "sampling_params": {"max_tokens": 5, "stop": ["canary-stop"], "temperature": 0.777}}
    return service.client.post("/v1/batch_generate", json=body, headers=headers).status_code


def trace(collector: Collector, trace_id: str, *names: str) -> dict[str, list[Seen]]:
    """The spans of one trace by their names, once all of these have come."""

    def come() -> dict[str, list[Seen]] | None:
        found: dict[str, list[Seen]] = {}
        for span in list(collector.spans):
            if span.trace_id == trace_id:
                found.setdefault(span.name, []).append(span)
        return found if all(len(found.get(name, [])) >= names.count(name) for name in names) else None

    return until(come, f"the spans {names} do not arrive", 30)


def test_a_request_is_one_trace_from_the_client_to_the_ranks(service: Service, collector: Collector) -> None:
    assert ask(service, [PROMPT, PROMPT, {"prompt": 5}], TRACE) == 200
    root = "POST /v1/batch_generate"
    names = (root, "batch", "admission", "queue", "run", *["attempt"] * 2, *["generate"] * 2, "answer")
    spans = trace(collector, TRACE, *names)
    assert sorted(spans) == sorted(set(names))
    (request,), (batch,), (run,) = spans[root], spans["batch"], spans["run"]
    assert request.parent_id == CLIENT
    assert request.attributes["http.response.status_code"] == 200
    assert batch.parent_id == spans["answer"][0].parent_id == request.span_id
    assert {run.parent_id, spans["admission"][0].parent_id, spans["queue"][0].parent_id} == {batch.span_id}
    assert {span.parent_id for span in spans["attempt"]} == {run.span_id}
    assert {span.parent_id for span in spans["generate"]} == {span.span_id for span in spans["attempt"]}
    assert (batch.attributes["phalanx.items_ok"], batch.attributes["phalanx.items_error"]) == (2, 1)
    assert request.duration_s >= batch.duration_s >= run.duration_s >= max(s.duration_s for s in spans["attempt"])


def test_an_attempt_says_where_it_ran(service: Service, collector: Collector) -> None:
    assert ask(service, ["one", "two"], "1" * 32) == 200
    spans = trace(collector, "1" * 32, *["attempt"] * 2, *["generate"] * 2)
    ranks = {rank["rank"]: rank["incarnation"] for rank in service.ranks()}
    for attempt in spans["attempt"]:
        (generate,) = [span for span in spans["generate"] if span.parent_id == attempt.span_id]
        rank = attempt.attributes["phalanx.rank"]
        assert attempt.attributes["phalanx.incarnation"] == ranks[rank]
        assert (attempt.attributes["phalanx.attempt"], attempt.attributes["phalanx.status"]) == (1, "ok")
        assert (generate.service, generate.resource["phalanx.rank"]) == ("phalanx-rank", str(rank))
        assert generate.attributes["gen_ai.usage.completion_tokens"] == 5
    assert sorted(int(span.attributes["phalanx.index"]) for span in spans["attempt"]) == [0, 1]


def test_few_items_of_a_large_batch_are_traced(service: Service, collector: Collector) -> None:
    assert ask(service, ["many"] * 300, "2" * 32) == 200
    spans = trace(collector, "2" * 32, "answer", *["generate"] * 3)
    assert len(spans["attempt"]) == len(spans["generate"]) == 3
    assert sorted(int(span.attributes["phalanx.index"]) for span in spans["attempt"]) == [0, 100, 200]


def test_an_item_that_runs_again_has_a_span_for_every_time(service: Service, collector: Collector) -> None:
    service.errors_expected = True
    assert ask(service, ["a bone"], "3" * 32) == 200
    spans = trace(collector, "3" * 32, "answer", *["attempt"] * 2)
    first, second = sorted(spans["attempt"], key=lambda span: int(span.attributes["phalanx.attempt"]))
    assert (first.attributes["phalanx.status"], second.attributes["phalanx.status"]) == (
        "lost",
        "error",
    )  # the second time it was alone
    assert first.is_error and second.is_error
    until(lambda: service.health()["status"] == "ok", "it does not come back")


def test_what_is_refused_has_a_span_and_what_is_probed_has_none(service: Service, collector: Collector) -> None:
    assert ask(service, [], "4" * 32) == 400
    assert service.client.get("/health").status_code == 200
    assert service.client.get("/metrics").status_code == 200
    spans = trace(collector, "4" * 32, "POST /v1/batch_generate")
    assert len(spans) == 1
    assert spans["POST /v1/batch_generate"][0].attributes["http.response.status_code"] == 400
    assert not [span for span in collector.spans if "health" in span.name or "metrics" in span.name]


def test_a_client_that_does_not_want_to_be_traced_is_not(service: Service, collector: Collector) -> None:
    assert ask(service, ["unseen"], "5" * 32, flags="00") == 200
    assert ask(service, ["seen"], "6" * 32) == 200
    trace(collector, "6" * 32, "answer", "generate")
    assert not [span for span in collector.spans if span.trace_id == "5" * 32]


def test_logs_and_traces_find_each_other(service: Service, collector: Collector) -> None:
    assert ask(service, ["both"], "7" * 32) == 200
    spans = trace(collector, "7" * 32, "batch", "POST /v1/batch_generate")
    (ended,) = service.facts("batch_ended", trace_id="7" * 32)
    assert spans["batch"][0].attributes["phalanx.batch"] == ended["batch"]
    assert spans["POST /v1/batch_generate"][0].attributes["phalanx.request_id"] == ended["request_id"]


def test_no_span_holds_what_a_client_sent(service: Service, collector: Collector) -> None:
    assert ask(service, [PROMPT], "8" * 32) == 200
    trace(collector, "8" * 32, "answer", "generate")
    seen = " ".join(str(span) for span in collector.spans)
    assert "canary" not in seen
    assert "0.777" not in seen
    assert collector.headers[0]["x-token"] == "abc"


def test_a_collector_that_is_not_there_holds_nothing_up() -> None:
    with serving("--otlp-traces-endpoint", "http://127.0.0.1:9", dp_size=1) as service:
        service.errors_expected = True
        assert service.batch(["a"])["request_counts"]["ok"] == 1
        began = time.monotonic()
        service.stop()
        assert time.monotonic() - began < 40  # it takes about seven


def test_without_the_packages_the_start_ends_with_a_sentence(tmp_path: Path) -> None:
    package = tmp_path / "opentelemetry"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('none here')")
    command = [COMMAND, "serve", "--engine", "simulated", "--port", "0", "--otlp-traces-endpoint", "http://127.0.0.1:9"]
    variables = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=variables, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("phalanx: --otlp-traces-endpoint (PHALANX_OTLP_TRACES_ENDPOINT) is http://127.0.0.1:9/")
    assert sentence.endswith("install phalanx[otel]")
