"""OpenTelemetry, for both sides: where spans go, and the rank's own span of each attempt that is traced.

A context travels as a W3C traceparent, a string that nobody between the two ends looks into. The packages are
imported when traces are asked for, and not before.
"""

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from engines.contract.protocol import Outcome, Result, RunItem
from engines.contract.spec import RankSpec

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

NEEDED = "opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http"
CLOSE_TIMEOUT_S = 3.0  # a collector that does not answer must not hold up the end
# The context of an attempt that nobody traces: vLLM makes a span of every request that comes without one.
UNTRACED = f"00-{1:032x}-{1:016x}-00"


def open_provider(endpoint: str, service: str, attributes: Mapping[str, str]) -> "TracerProvider":
    """Spans of this provider go to the endpoint, some seconds after they ended. OTEL_* variables count.

    Raises ImportError.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = Resource.create({"service.name": service, **attributes}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=named, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return provider


def close_provider(provider: "TracerProvider") -> None:
    """Sends what is left, unless that takes long."""
    closing = threading.Thread(target=provider.shutdown, name="close traces", daemon=True)
    closing.start()
    closing.join(CLOSE_TIMEOUT_S)


def traceparent(span: "Span") -> str:
    """The span as a context for those below it."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def context_of(parent: str, state: str = "") -> "Context":
    """What `traceparent` gave, or a client sent (W3C's traceparent and tracestate); an empty one for anything else."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": parent, "tracestate": state}, Context())


class RankTraces:
    """The spans of a rank: one for each attempt that carries a context, below which the engine's own go."""

    def __init__(self, spec: RankSpec, endpoint: str) -> None:
        ids = {f"phalanx.{name}": str(value) for name, value in spec.ids.items()}
        self._provider = open_provider(endpoint, "phalanx-rank", ids)
        self._tracer = self._provider.get_tracer("phalanx.rank")
        self._spans: dict[int, Span] = {}  # by attempt

    def begin(self, items: list[RunItem]) -> None:
        """Attempts have come. From now on their contexts are the rank's own spans."""
        from opentelemetry.trace import SpanKind

        for item in items:
            if item.trace is not None:
                span = self._tracer.start_span("generate", context_of(item.trace), SpanKind.SERVER)
                self._spans[item.attempt] = span
                item.trace = traceparent(span)

    def end(self, result: Result) -> None:
        """An attempt has its result."""
        from opentelemetry.trace import StatusCode

        span = self._spans.pop(result.attempt, None)
        if span is None:
            return
        span.set_attribute("phalanx.outcome", result.outcome.name.lower())
        span.set_attribute("gen_ai.usage.prompt_tokens", result.prompt_tokens)
        span.set_attribute("gen_ai.usage.completion_tokens", result.completion_tokens)
        if result.outcome in (Outcome.ERROR, Outcome.LOST):
            span.set_status(StatusCode.ERROR, None if result.error is None else str(result.error.code))
        span.end()

    def close(self) -> None:
        """Sends what is left: the engine's own spans as well."""
        from opentelemetry import trace

        flush = getattr(trace.get_tracer_provider(), "force_flush", None)  # vLLM's, if it has made one
        flushing = threading.Thread(target=flush or int, name="flush traces", daemon=True)
        flushing.start()
        close_provider(self._provider)
        flushing.join(CLOSE_TIMEOUT_S)


def open_rank_traces(spec: RankSpec) -> RankTraces | None:
    """None when traces were not asked for."""
    return None if spec.otlp_traces_endpoint is None else RankTraces(spec, spec.otlp_traces_endpoint)
