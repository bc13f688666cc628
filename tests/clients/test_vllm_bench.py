"""vLLM's own benchmark client, from the environment that the service itself runs in."""

import json
import sys
from pathlib import Path

import pytest

from bench.vllm_server import named_as_vllm
from tests.clients.environments import private_variables, run
from tests.clients.server import Server

REQUESTS = 50
TIMEOUT_S = 200
ROUTES = {"openai": "/v1/completions", "openai-chat": "/v1/chat/completions"}


@pytest.mark.parametrize("backend", ROUTES)
def test_all_requests_of_a_benchmark_succeed(server: Server, backend: str, tmp_path: Path) -> None:
    lengths = ("--random-input-len", "32", "--random-output-len", "8")
    run(
        [
            *(sys.executable, "-P", "-m", "vllm.entrypoints.cli.main", "bench", "serve"),
            *("--backend", backend, "--base-url", server.url, "--endpoint", ROUTES[backend]),
            *("--model", server.model, "--tokenizer", str(server.tokenizer)),
            *("--dataset-name", "random", *lengths, "--num-prompts", str(REQUESTS), "--max-concurrency", "8"),
            *("--disable-tqdm", "--save-result", "--save-detailed", "--result-filename", str(tmp_path / "result.json")),
        ],
        timeout_s=TIMEOUT_S,
        cwd=tmp_path,
        variables=private_variables(tmp_path)
        | {"PYTHONPATH": str(named_as_vllm(tmp_path)), "OPENAI_API_KEY": server.shown_key},
    )
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["completed"], result["failed"]) == (REQUESTS, 0)
    assert result["total_output_tokens"] == REQUESTS * 8
    assert not any(result["errors"])
