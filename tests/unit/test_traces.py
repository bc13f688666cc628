"""A batch's spans: which there are, however it goes, and that nothing is left open."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.settings.declaration import Settings, SettingsError
from app.settings.loading import load_settings
from app.traces import OFF, BatchTrace, OtlpTraces, RequestTrace, Traces, open_traces

COUNTS = [("ok", 1), ("error", 0), ("cancelled", 0), ("timeout", 0)]


class Bench:
    """Traces that end in memory, and a request that is current."""

    def __init__(self, trace_items: int = 8, headers: dict[str, str] | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.traces: Traces = OtlpTraces(provider, trace_items)
        self.request: RequestTrace = self.traces.request("/v1/batch_generate", headers or {}, "req-1")

    def admitted(self, size: int) -> BatchTrace:
        batch = self.traces.batch(size)
        batch.admitted(batch="batchgen-1", items=size, tokens=10, priority=0)
        return batch

    def spans(self) -> dict[str, ReadableSpan]:
        self.request.end("POST", "/v1/batch_generate", 200)
        return {span.name: span for span in self.exporter.get_finished_spans()}


def test_a_batch_that_never_ran_has_only_waited() -> None:
    bench = Bench()
    batch = bench.admitted(1)
    batch.ended([("timeout", 1)])
    assert list(bench.spans()) == ["admission", "queue", "batch", "POST /v1/batch_generate"]


def test_a_batch_that_was_not_admitted_leaves_no_span() -> None:
    bench = Bench()
    bench.traces.batch(3).ended(COUNTS)
    assert list(bench.spans()) == ["POST /v1/batch_generate"]


def test_an_attempt_that_is_given_up_ends_with_its_item() -> None:
    bench = Bench()
    batch = bench.admitted(1)
    parent = batch.started(0, 1, 2, 3)
    batch.finished(0, "cancelled", None)
    batch.ended(COUNTS)
    attempt = bench.spans()["attempt"]
    assert attempt.attributes is not None and attempt.context is not None
    assert attempt.attributes["phalanx.status"] == "cancelled"
    assert attempt.status.is_ok is False or attempt.status.description is None
    assert (
        parent == f"00-{attempt.context.trace_id:032x}-{attempt.context.span_id:016x}-{attempt.context.trace_flags:02x}"
    )


@pytest.mark.parametrize(("status", "code", "description"), [("error", "poisoned", "poisoned"), ("lost", None, "lost")])
def test_an_attempt_that_failed_says_why(status: str, code: str | None, description: str) -> None:
    bench = Bench()
    batch = bench.admitted(1)
    batch.started(0, 1, 0, 1)
    batch.finished(0, status, code)
    batch.ended(COUNTS)
    assert bench.spans()["attempt"].status.description == description


@pytest.mark.parametrize(
    ("size", "trace_items", "traced"),
    [(1, 8, [0]), (4, 8, [0, 1, 2, 3]), (10, 2, [0, 5]), (100_000, 4, [0, 25000, 50000, 75000]), (5, 0, [])],
)
def test_so_many_items_are_traced_spread_over_the_batch(size: int, trace_items: int, traced: list[int]) -> None:
    batch = Bench(trace_items).admitted(size)
    assert [index for index in range(size) if batch.started(index, 1, 0, 1) is not None] == traced


def test_the_first_items_are_traced_of_a_batch_whose_size_is_not_known_yet() -> None:
    batch = Bench(trace_items=2).admitted(0)
    assert [index for index in range(10) if batch.started(index, 1, 0, 1) is not None] == [0, 1]


def test_whoever_does_not_want_to_be_traced_costs_no_spans() -> None:
    bench = Bench(headers={"traceparent": f"00-{5:032x}-{6:016x}-00"})
    batch = bench.admitted(1)
    assert batch.started(0, 1, 0, 1) is None
    batch.ended(COUNTS)
    assert bench.spans() == {}


@pytest.mark.parametrize("header", ["", "nonsense", "00-0-0-01"])
def test_a_context_that_is_none_begins_a_trace(header: str) -> None:
    span = Bench(headers={"traceparent": header}).spans()["POST /v1/batch_generate"]
    assert span.parent is None


def test_probes_are_not_traced() -> None:
    bench = Bench()
    probe = bench.traces.request("/health", {}, "req-2")
    probe.end("GET", "/health", 200)
    assert probe.ids == {}
    assert list(bench.spans()) == ["POST /v1/batch_generate"]


def test_without_an_endpoint_there_is_nothing_and_nothing_is_imported() -> None:
    assert open_traces(Settings()) is OFF
    batch = OFF.batch(1)
    batch.admitted(batch="b", items=1, tokens=1, priority=0)
    assert batch.started(0, 1, 0, 1) is None
    code = "import sys, app.http.server, app.traces; app.traces.OFF.request('/v1/x', {}, 'r').end('GET', '/', 200)\n"
    code += "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("given", "endpoint"),
    [
        ("http://localhost:4318", "http://localhost:4318/v1/traces"),
        ("https://collector/", "https://collector/v1/traces"),
        ("http://collector:4318/v1/traces", "http://collector:4318/v1/traces"),
        ("http://collector/otlp?x=1", "http://collector/otlp?x=1"),
    ],
)
def test_an_endpoint_gets_otlps_path_where_it_has_none(given: str, endpoint: str) -> None:
    assert load_settings({"otlp_traces_endpoint": given}, {}).otlp_traces_endpoint == endpoint
    assert load_settings({}, {"PHALANX_OTLP_TRACES_ENDPOINT": given}).otlp_traces_endpoint == endpoint


@pytest.mark.parametrize("given", ["localhost:4317", "grpc://collector", "http://", "http:// x"])
def test_an_endpoint_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(SettingsError, match="a collector's URL for OTLP over HTTP, such as http://localhost:4318"):
        load_settings({"otlp_traces_endpoint": given}, {})


@pytest.fixture(autouse=True)
def no_context_is_left() -> Iterator[None]:
    """A test that does not end its request would be the parent of the next one's."""
    from opentelemetry import context

    token = context.attach(context.Context())
    yield
    context.detach(token)
