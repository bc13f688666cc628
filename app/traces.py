"""OpenTelemetry traces: the request, its batch, and the attempts of some of the batch's items on the ranks.

A gateway without --otlp-traces-endpoint has `Traces` as they stand here: they do nothing and import nothing. No span
holds a prompt, an output or a sampling parameter.
"""

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from app.settings.declaration import Settings, SettingsError, label
from engines import traces

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanKind, Tracer

TRACED_PATHS = "/v1/"  # neither probes nor scrapes


class RequestTrace:
    """A request's span, current while the request is worked on."""

    @property
    def ids(self) -> dict[str, str]:
        """For the log's lines about this request."""
        return {}

    def end(self, method: str, route: str, status: int) -> None:
        """The answer has been sent, or the client is gone."""


class BatchTrace:
    """A batch's spans, below its request's."""

    def admitted(self, *, batch: str, items: int, tokens: int, priority: int) -> None:
        """It has been taken in and waits in the backlog."""

    def started(self, index: int, attempt: int, rank: int, incarnation: int) -> str | None:
        """An item goes to a rank; the context to send along, if this item is traced."""

    def finished(self, index: int, status: str, code: str | None) -> None:
        """An item has its result."""

    def ended(self, counts: Iterable[tuple[str, int]]) -> None:
        """The batch has its last result."""

    def answered(self) -> None:
        """The body has been sent."""


class Traces:
    """What a gateway without traces does: nothing."""

    def request(self, path: str, headers: Mapping[str, str], request_id: str) -> RequestTrace:
        """A request's head has come. To be called, and ended, in the request's own task."""
        return RequestTrace()

    def batch(self, size: int) -> BatchTrace:
        """A batch is being taken in, by the task of its request."""
        return BatchTrace()

    def close(self) -> None:
        """Sends what is left, unless that takes long."""


OFF = Traces()


def open_traces(settings: Settings) -> Traces:
    """Traces as the settings want them. Raises SettingsError when they want what is not installed."""
    endpoint = settings.otlp_traces_endpoint
    if endpoint is None:
        return OFF
    try:
        provider = traces.open_provider(endpoint, "phalanx", {})
    except ImportError as error:
        raise SettingsError(
            f"{label('otlp_traces_endpoint')} is {endpoint}: it needs {traces.NEEDED} ({error}); install phalanx[otel]"
        ) from error
    return OtlpTraces(provider, settings.trace_items)


class OtlpTraces(Traces):
    """Traces that are sent."""

    def __init__(self, provider: "TracerProvider", trace_items: int) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("phalanx.gateway")
        self._trace_items = trace_items

    def request(self, path: str, headers: Mapping[str, str], request_id: str) -> RequestTrace:
        """A server span, below the client's when it sent a context."""
        from opentelemetry.trace import SpanKind

        if not path.startswith(TRACED_PATHS):
            return RequestTrace()
        parent = traces.context_of(headers.get("traceparent", ""), headers.get("tracestate", ""))
        span = self._tracer.start_span("request", parent, SpanKind.SERVER, {"phalanx.request_id": request_id})
        return _OtlpRequest(span)

    def batch(self, size: int) -> BatchTrace:
        """Spans below the request's."""
        return _OtlpBatch(self._tracer, size, self._trace_items)

    def close(self) -> None:
        """Sends what is left, unless that takes long."""
        traces.close_provider(self._provider)


class _OtlpRequest(RequestTrace):
    def __init__(self, span: "Span") -> None:
        from opentelemetry import context, trace

        self._span = span
        self._token = context.attach(trace.set_span_in_context(span))

    @property
    def ids(self) -> dict[str, str]:
        return {"trace_id": f"{self._span.get_span_context().trace_id:032x}"}

    def end(self, method: str, route: str, status: int) -> None:
        from opentelemetry import context
        from opentelemetry.trace import StatusCode

        self._span.update_name(f"{method} {route}")
        self._span.set_attributes(
            {"http.request.method": method, "http.route": route, "http.response.status_code": status}
        )
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()
        context.detach(self._token)


class _OtlpBatch(BatchTrace):
    """`batch` from its first byte decoded to its last result, and in it `admission`, `queue`, `run` and, below `run`,
    one `attempt` for every time that a traced item is sent to a rank. `answer` follows."""

    def __init__(self, tracer: "Tracer", size: int, trace_items: int) -> None:
        from opentelemetry import trace

        self._tracer = tracer
        self._size = size
        self._trace_items = trace_items
        self._request = trace.get_current_span()
        self._began_at = self._admitted_at = self._ended_at = time.time_ns()
        self._batch: Span | None = None  # once it is admitted
        self._run: Span | None = None  # once an item is on a rank
        self._attempts: dict[int, Span] = {}  # by the item's index

    def admitted(self, *, batch: str, items: int, tokens: int, priority: int) -> None:
        self._admitted_at = time.time_ns()
        self._batch = self._open("batch", self._request, self._began_at)
        self._batch.set_attributes(
            {
                "phalanx.batch": batch,
                "phalanx.items": self._size,
                "phalanx.items_to_run": items,
                "phalanx.tokens": tokens,
                "phalanx.priority": priority,
            }
        )
        self._open("admission", self._batch, self._began_at).end(self._admitted_at)

    def started(self, index: int, attempt: int, rank: int, incarnation: int) -> str | None:
        if self._run is None:
            self._begin_run()
        if self._run is None or not self._is_traced(index) or not self._run.is_recording():
            return None
        from opentelemetry.trace import SpanKind

        self._end_attempt(index, "lost", None)  # an earlier one, whose rank died with it
        span = self._open("attempt", self._run, kind=SpanKind.CLIENT)
        span.set_attributes(
            {
                "phalanx.index": index,
                "phalanx.attempt": attempt,
                "phalanx.rank": rank,
                "phalanx.incarnation": incarnation,
            }
        )
        self._attempts[index] = span
        return traces.traceparent(span)

    def finished(self, index: int, status: str, code: str | None) -> None:
        if self._attempts:
            self._end_attempt(index, status, code)

    def ended(self, counts: Iterable[tuple[str, int]]) -> None:
        self._ended_at = time.time_ns()
        if self._batch is None:
            return
        if self._run is None:
            self._open("queue", self._batch, self._admitted_at).end(self._ended_at)
        else:
            self._run.end(self._ended_at)
        self._batch.set_attributes({f"phalanx.items_{status}": count for status, count in counts})
        self._batch.end(self._ended_at)

    def answered(self) -> None:
        self._open("answer", self._request, self._ended_at).end()

    def _begin_run(self) -> None:
        if self._batch is not None:
            now = time.time_ns()
            self._open("queue", self._batch, self._admitted_at).end(now)
            self._run = self._open("run", self._batch, now)

    def _open(self, name: str, parent: "Span", start: int | None = None, kind: "SpanKind | None" = None) -> "Span":
        from opentelemetry import trace

        context = trace.set_span_in_context(parent)
        return self._tracer.start_span(name, context, kind or trace.SpanKind.INTERNAL, start_time=start)

    def _end_attempt(self, index: int, status: str, code: str | None) -> None:
        from opentelemetry.trace import StatusCode

        span = self._attempts.pop(index, None)
        if span is None:
            return
        span.set_attribute("phalanx.status", status)
        if status not in ("ok", "cancelled"):
            span.set_status(StatusCode.ERROR, code or status)
        span.end()

    def _is_traced(self, index: int) -> bool:
        """So many of the batch's items, evenly spread over it, the first among them. Of one whose size was not known
        when it began, the first."""
        wanted = self._trace_items
        if not self._size:
            return index < wanted
        return index * wanted // self._size != (index - 1) * wanted // self._size
