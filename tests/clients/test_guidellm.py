"""GuideLLM: a short benchmark of streamed chats and completions."""

import json
from collections.abc import Callable

import pytest

from tests.clients.environments import Client
from tests.clients.server import Server

REQUESTS = 12
TIMEOUT_S = 120


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
def test_all_requests_of_a_benchmark_succeed(client: Callable[[str], Client], server: Server, route: str) -> None:
    guidellm = client("guidellm")
    report = guidellm.home / "report.json"
    backend = {"target": server.url, "model": server.model, "request_format": route, "api_key": server.shown_key}
    guidellm.run(
        *("guidellm", "run", "--disable-progress"),
        *("--backend", fields("openai_http", **backend)),
        *("--profile", fields("concurrent", streams=4)),
        *("--constraint", fields("max_requests", count=REQUESTS)),
        *("--tokenizer", fields("huggingface_auto", model=server.tokenizer)),
        *("--data", fields("synthetic_text", prompt_tokens=32, output_tokens=8)),
        *("--output", fields("json", path=report)),
        timeout_s=TIMEOUT_S,
    )
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert totals["successful"] == totals["total"] == REQUESTS
    assert all(request["output_metrics"]["text_tokens"] == 8 for request in benchmark["requests"]["successful"])


def fields(kind: str, **more: object) -> str:
    """As its options take them."""
    return ",".join(f"{name}={value}" for name, value in {"kind": kind, **more}.items())
