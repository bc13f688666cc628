"""All metrics of the gateway, `phalanx_*`: base units, counters end in `_total`, and no id is a label."""

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from app.journal.records import NewResult
from engines.contract.protocol import Result

Reader = Callable[[], float]
REQUEST_SECONDS = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
FIRST_BYTE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
MOST_TENANTS = 100  # that have a label of their own
OTHER_TENANTS = "other"
PREDICTION_ERRORS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5)
STATUSES = ("ok", "error", "cancelled", "timeout")


class RankFigures(Protocol):
    """What a scrape asks of the gateway about each rank."""

    @property
    def number(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def figures(self) -> Mapping[str, float]: ...


# Read at every scrape: the name and its help.
WATCHED_GAUGES = {
    "phalanx_backlog_items": "Items accepted and not yet dispatched.",
    "phalanx_backlog_tokens": "Tokens that these may take.",
    "phalanx_running_items": "Items on ranks.",
    "phalanx_suspect_items": "Items on trial, after their group crashed.",
    "phalanx_asyncio_tasks": "Tasks of the event loop.",
    "phalanx_active_batches": "Batches under way.",
    "phalanx_active_exchanges": "Exchanges under way.",
    "phalanx_batches_held_back": "Of these, streams whose clients read too slowly.",
    "phalanx_detached_batches": "Batches in the background that have not ended.",
    "phalanx_detached_batches_held": "Of these, those of which nothing runs until a reason is gone.",
    "phalanx_held_bytes": "Bodies and results in memory, in bytes.",
    "phalanx_journal_available": "1 while the journal takes writes.",
    "phalanx_journal_file_bytes": "Size of the journal's files; NaN on a server.",
    "phalanx_journal_free_bytes": "Free where these files are; NaN on a server.",
    "phalanx_stored_batches": "Batches in the journal.",
    "phalanx_stored_items": "Items in the journal.",
    "phalanx_stored_files": "Files in the journal.",
    "phalanx_stored_bytes": "Items, results and files in the journal, in bytes.",
    "phalanx_spool_bytes": "Items of NDJSON bodies and unread results of theirs on disk, in bytes.",
}
WATCHED_COUNTERS = {
    "phalanx_items_requeued_total": "Attempts that were lost and made again.",
    "phalanx_items_poisoned_total": "Items that were found to crash an engine.",
    "phalanx_journal_commits_total": "Commits of the journal; many writes are one.",
}
# The same, for each rank.
RANK_GAUGES = {
    "phalanx_rank_held_items": "Items on the rank.",
    "phalanx_rank_credit_sequences": "Sequences the rank may take now.",
    "phalanx_rank_running_sequences": "Sequences in the engine's running batch.",
    "phalanx_rank_waiting_sequences": "Sequences in the engine's own queue.",
    "phalanx_rank_kv_cache_usage_ratio": "Share of the KV cache in use, 0 to 1.",
    "phalanx_rank_restarts": "Lives of the rank after its first.",
    "phalanx_rank_steps": "Engine steps since the rank became ready.",
    "phalanx_rank_step_age_seconds": "Time since the engine's last step.",
}


class Metrics:
    """Counters that are counted, and gauges that are looked up when somebody scrapes."""

    def __init__(self, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client leaves it untyped
        self.registry = CollectorRegistry()
        ProcessCollector(namespace="phalanx", registry=self.registry)
        info = Gauge("phalanx_build_info", "Version of the gateway.", ["version"], registry=self.registry)
        info.labels(version).set(1)
        self._requests = Counter(
            "phalanx_http_requests_total", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "phalanx_http_request_duration_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            buckets=REQUEST_SECONDS,
            registry=self.registry,
        )
        # Looked up by the library, a child costs a microsecond, and a small batch needs a dozen.
        self._request_count = cache(self._requests.labels)
        self._request_seconds = cache(self._seconds.labels)
        self._cut = Counter(
            "phalanx_connections_cut_total", "Connections that the gateway ended.", ["reason"], registry=self.registry
        )
        self._commit_seconds = Histogram(
            "phalanx_journal_commit_seconds",
            "Until the journal has stored what came together.",
            buckets=COMMIT_SECONDS,
            registry=self.registry,
        )
        self._lag = Histogram(
            "phalanx_event_loop_lag_seconds",
            "How late the gateway's event loop was, looked at twenty times a second.",
            buckets=LAG_SECONDS,
            registry=self.registry,
        )
        self._declare_work()

    def _declare_work(self) -> None:
        """What counts batches, their items and tokens."""
        items = Counter("phalanx_items_total", "Items that have their result.", ["status"], registry=self.registry)
        self._items = {status: items.labels(status) for status in STATUSES}
        self._batches = Counter("phalanx_batches_total", "Batches that have ended.", registry=self.registry)
        self._losses = Counter(
            "phalanx_groups_lost_total", "Groups of ranks that were lost, by how.", ["kind"], registry=self.registry
        )
        self._prompt_tokens = Counter(
            "phalanx_prompt_tokens_total", "Prompt tokens of answered items.", ["rank"], registry=self.registry
        )
        self._completion_tokens = Counter(
            "phalanx_completion_tokens_total", "Generated tokens of answered items.", ["rank"], registry=self.registry
        )
        self._prompt_tokens_of_rank = cache(self._prompt_tokens.labels)
        self._completion_tokens_of_rank = cache(self._completion_tokens.labels)
        self._exchanges = Counter(
            "phalanx_exchanges_total", "Exchanges that have ended.", ["path", "status"], registry=self.registry
        )
        self._first_byte_seconds = Histogram(
            "phalanx_exchange_first_byte_seconds",
            "From a streamed exchange's acceptance to the first byte of its answer.",
            ["path"],
            buckets=FIRST_BYTE_SECONDS,
            registry=self.registry,
        )
        self._tenants: set[str] = set()
        self._tenant_items = Counter(
            "phalanx_tenant_items_total", "Items that have their result.", ["tenant"], registry=self.registry
        )
        self._tenant_tokens = Counter(
            "phalanx_tenant_tokens_total", "Tokens of answered items.", ["tenant", "kind"], registry=self.registry
        )
        self._items_of_tenant = cache(self._tenant_items.labels)
        self._tokens_of_tenant = cache(self._tenant_tokens.labels)
        self._prediction = Histogram(
            "phalanx_prediction_error_ratio",
            "How far the time left, predicted when half of a batch was done, was from the true time, as a share of it.",
            buckets=PREDICTION_ERRORS,
            registry=self.registry,
        )

    def exchange_ended(self, path: str, status: str, first_byte_s: float | None) -> None:
        """An exchange has its answer, or will have none."""
        self._exchanges.labels(path, status).inc()
        self._items[status].inc()
        if first_byte_s is not None:
            self._first_byte_seconds.labels(path).observe(first_byte_s)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        self._request_count(method, route, str(status)).inc()
        self._request_seconds(route).observe(seconds)

    def results(self, rank: int, results: list[Result]) -> None:
        """A rank has answered items."""
        label = str(rank)
        self._prompt_tokens_of_rank(label).inc(sum(result.prompt_tokens for result in results))
        self._completion_tokens_of_rank(label).inc(sum(result.completion_tokens for result in results))

    def group_lost(self, kind: str) -> None:
        """A group of ranks was lost."""
        self._losses.labels(kind).inc()

    def batch_ended(self, counts: Iterable[tuple[str, int]]) -> None:
        """A batch has its last result."""
        self._batches.inc()
        self._count_items(counts)

    def items_stored(self, tenant: str, results: Sequence[NewResult]) -> None:
        """Results of a detached batch have become durable."""
        self._count_items(Counts(result.status.value for result in results).items())
        prompt_tokens = sum(result.prompt_tokens for result in results)
        self.tenant_used(tenant, len(results), prompt_tokens, sum(result.completion_tokens for result in results))

    def detached_batch_ended(self) -> None:
        """A detached batch has come to its end."""
        self._batches.inc()

    def _count_items(self, counts: Iterable[tuple[str, int]]) -> None:
        for status, count in counts:
            if count:
                self._items[status].inc(count)

    def tenant_used(self, tenant: str, items: int, prompt_tokens: int, completion_tokens: int) -> None:
        """So many of a tenant's items have their results. The first hundred tenants are told apart."""
        if tenant not in self._tenants and len(self._tenants) < MOST_TENANTS:
            self._tenants.add(tenant)
        label = tenant if tenant in self._tenants else OTHER_TENANTS
        self._items_of_tenant(label).inc(items)
        self._tokens_of_tenant(label, "prompt").inc(prompt_tokens)
        self._tokens_of_tenant(label, "completion").inc(completion_tokens)

    def journal_commit(self, seconds: float) -> None:
        """The journal has committed. Called in its own thread."""
        self._commit_seconds.observe(seconds)

    def predicted(self, error_ratio: float) -> None:
        """A batch has ended. The time left, predicted when half of it was done, was so far from the true time."""
        self._prediction.observe(error_ratio)

    def lag(self, seconds: float) -> None:
        """The event loop was so late."""
        self._lag.observe(seconds)

    def watch_connections(self, is_open: Callable[[], int], reasons: Iterable[str]) -> Callable[[str], None]:
        """How many are open is read at every scrape. Returns what counts one that was ended, with its reason."""
        Gauge("phalanx_http_connections", "Connections that are open.", registry=self.registry).set_function(is_open)
        cut = {reason: self._cut.labels(reason) for reason in reasons}
        return lambda reason: cut[reason].inc()

    def watch(self, readers: Mapping[str, Reader], ranks: Callable[[], Iterable[RankFigures]]) -> None:
        """How each watched gauge and counter, and each rank, is read at every scrape. Raises KeyError for one that
        nobody reads."""
        for name, text in WATCHED_GAUGES.items():
            Gauge(name, text, registry=self.registry).set_function(readers[name])
        self.registry.register(_CounterCollector({name: readers[name] for name in WATCHED_COUNTERS}))
        self.registry.register(_RankCollector(ranks))

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _CounterCollector(Collector):
    def __init__(self, readers: Mapping[str, Reader]) -> None:
        self._readers = readers

    def collect(self) -> Iterable[Metric]:
        return [CounterMetricFamily(name, WATCHED_COUNTERS[name], value=read()) for name, read in self._readers.items()]


class _RankCollector(Collector):
    def __init__(self, ranks: Callable[[], Iterable[RankFigures]]) -> None:
        self._ranks = ranks

    def collect(self) -> Iterable[Metric]:
        families = {name: GaugeMetricFamily(name, text, labels=["rank"]) for name, text in RANK_GAUGES.items()}
        state = GaugeMetricFamily(
            "phalanx_rank_state", "1 for the state that the rank is in.", labels=["rank", "state"]
        )
        for rank in self._ranks():
            label = str(rank.number)
            state.add_metric([label, rank.state], 1)
            for name, value in rank.figures.items():
                families[name].add_metric([label], value)
        return [state, *families.values()]


def merge_expositions(texts: Iterable[bytes]) -> bytes:
    """Several processes' metrics as one text: the samples of equal families stand together, under one head."""
    heads: dict[bytes, list[bytes]] = {}
    samples: dict[bytes, list[bytes]] = {}
    for text in texts:
        family = b""
        for line in text.splitlines():
            if line.startswith((b"# HELP ", b"# TYPE ")):
                family = line.split(b" ", 3)[2]
                head = heads.setdefault(family, [])
                if not any(known.startswith(line[:7] + family + b" ") for known in head):
                    head.append(line)
            elif line and not line.startswith(b"#"):
                samples.setdefault(family, []).append(line)
    lines = [line for family, head in heads.items() for line in (*head, *samples.get(family, []))]
    return b"".join(line + b"\n" for line in lines)
