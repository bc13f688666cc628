"""/metrics: our own families, and those of several engines under one head each."""

from app.metrics import MOST_TENANTS, WATCHED_COUNTERS, WATCHED_GAUGES, Metrics, Reader, merge_expositions
from engines.contract.protocol import Outcome, Result

NOTHING: dict[str, Reader] = dict.fromkeys([*WATCHED_GAUGES, *WATCHED_COUNTERS], lambda: 0.0)
ONE = b"""\
# HELP e:steps_total Steps made
# TYPE e:steps_total counter
e:steps_total{engine="0"} 1.0
# HELP e:latency_seconds Latency
# TYPE e:latency_seconds histogram
e:latency_seconds_bucket{engine="0",le="+Inf"} 2.0
e:latency_seconds_count{engine="0"} 2.0
e:latency_seconds_sum{engine="0"} 0.5
"""
MERGED = b"""\
# HELP e:steps_total Steps made
# TYPE e:steps_total counter
e:steps_total{engine="0"} 1.0
e:steps_total{engine="1"} 1.0
# HELP e:latency_seconds Latency
# TYPE e:latency_seconds histogram
e:latency_seconds_bucket{engine="0",le="+Inf"} 2.0
e:latency_seconds_count{engine="0"} 2.0
e:latency_seconds_sum{engine="0"} 0.5
e:latency_seconds_bucket{engine="1",le="+Inf"} 2.0
e:latency_seconds_count{engine="1"} 2.0
e:latency_seconds_sum{engine="1"} 0.5
"""


def samples(metrics: Metrics) -> dict[str, float]:
    lines = metrics.exposition().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def test_equal_families_of_several_engines_stand_together_under_one_head() -> None:
    assert merge_expositions([ONE, ONE.replace(b'"0"', b'"1"')]) == MERGED


def test_one_text_stays_as_it_is_and_none_is_empty() -> None:
    assert merge_expositions([ONE]) == ONE
    assert merge_expositions([]) == b""


def test_families_that_only_one_engine_has_stay() -> None:
    other = b"# HELP other Other\n# TYPE other gauge\nother 3.0\n\n"
    assert merge_expositions([ONE, other]) == ONE + other.rstrip(b"\n") + b"\n"


def test_a_family_whose_help_differs_keeps_the_first() -> None:
    merged = merge_expositions([ONE, ONE.replace(b"Steps made", b"Steps that were made")])
    assert merged.count(b"# HELP e:steps_total") == 1
    assert b"Steps that were made" not in merged


def test_a_family_that_begins_like_another_is_its_own() -> None:
    text = b"# HELP a A\n# TYPE a gauge\na 1\n# HELP a_b B\n# TYPE a_b gauge\na_b 2\n"
    assert merge_expositions([text, text]) == (
        b"# HELP a A\n# TYPE a gauge\na 1\na 1\n# HELP a_b B\n# TYPE a_b gauge\na_b 2\na_b 2\n"
    )


def test_what_is_counted_is_shown() -> None:
    metrics = Metrics("1.2.3")
    metrics.request("POST", "/v1/batch_generate", 200, 0.2)
    metrics.results(1, [Result(1, Outcome.OK, prompt_tokens=5, completion_tokens=7), Result(2, Outcome.OK)])
    metrics.batch_ended({"ok": 2, "error": 1, "timeout": 0}.items())
    metrics.group_lost("died")
    metrics.watch(NOTHING | {"phalanx_backlog_items": lambda: 42.0, "phalanx_items_requeued_total": lambda: 7.0}, list)
    found = samples(metrics)
    assert found['phalanx_build_info{version="1.2.3"}'] == 1
    assert found['phalanx_http_requests_total{method="POST",route="/v1/batch_generate",status="200"}'] == 1
    assert found['phalanx_http_request_duration_seconds_count{route="/v1/batch_generate"}'] == 1
    assert found['phalanx_prompt_tokens_total{rank="1"}'] == 5
    assert found['phalanx_completion_tokens_total{rank="1"}'] == 7
    assert found['phalanx_items_total{status="ok"}'] == 2
    assert found['phalanx_items_total{status="cancelled"}'] == 0
    assert found["phalanx_batches_total"] == 1
    assert found['phalanx_groups_lost_total{kind="died"}'] == 1
    assert found["phalanx_backlog_items"] == 42
    assert found["phalanx_items_requeued_total"] == 7


def test_gauges_are_looked_up_at_every_scrape() -> None:
    metrics = Metrics("1")
    waiting = [3]
    metrics.watch(NOTHING | {"phalanx_backlog_items": waiting.pop}, list)
    assert samples(metrics)["phalanx_backlog_items"] == 3
    waiting.append(0)
    assert samples(metrics)["phalanx_backlog_items"] == 0


def test_a_hundred_tenants_are_told_apart_and_all_others_are_one() -> None:
    metrics = Metrics("1")
    for number in range(MOST_TENANTS + 2):
        metrics.tenant_used(f"t{number}", 1, 2, 3)
    metrics.tenant_used("t0", 1, 2, 3)
    found = samples(metrics)
    assert found['phalanx_tenant_items_total{tenant="t0"}'] == 2
    assert found['phalanx_tenant_items_total{tenant="other"}'] == 2
    assert found['phalanx_tenant_tokens_total{kind="completion",tenant="other"}'] == 6
    assert sum(name.startswith("phalanx_tenant_items_total") for name in found) == MOST_TENANTS + 1
