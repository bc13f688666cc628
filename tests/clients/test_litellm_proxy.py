"""LiteLLM as docs/openai.md shows it, and its proxy before the server, through which chats, streams and a batch go."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from bench.processes import free_port
from tests.clients.environments import TAIL_CHARACTERS, Client
from tests.clients.server import Server
from tests.documented import example
from tests.service import as_object, bearer, until

MASTER_KEY = "sk-of-the-proxy-before-the-service"
CHAT = {"model": "capitals", "messages": [{"role": "user", "content": "France: capital?"}], "max_tokens": 12}
HEADING = "### LiteLLM"
OFFLINE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else it fetches prices
START_DEADLINE_S = 120
BATCH_DEADLINE_S = 120
TIMEOUT_S = 120
FINISHED = ("completed", "failed", "expired", "cancelled")


@pytest.fixture(scope="module")
def proxy(client: Callable[[str], Client], server: Server) -> Iterator[httpx.Client]:
    """A client of the proxy, which has one model, the server's."""
    litellm, port = client("litellm"), free_port()
    config = litellm.home / "config.yaml"
    config.write_text(f"{server.filled(example('yaml', HEADING))}general_settings: {{master_key: {MASTER_KEY}}}\n")
    command = litellm.command("litellm", "--config", str(config), "--host", "127.0.0.1", "--port", str(port))
    variables = OFFLINE | {  # batches go where these say, not where the model is
        "OPENAI_API_BASE": server.openai_url,
        "OPENAI_API_KEY": server.shown_key,
    }
    log = litellm.home / "proxy.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=litellm.variables(variables), cwd=litellm.home, stdout=output, stderr=output
        )
    http = httpx.Client(
        base_url=f"http://127.0.0.1:{port}", headers=bearer(MASTER_KEY), timeout=120, trust_env=False
    )  # fmt: skip
    try:
        until(lambda: is_up(process, http, log.read_text), "the proxy does not answer", START_DEADLINE_S)
        yield http
    finally:
        http.close()
        process.terminate()
        process.wait(30)


def is_up(process: "subprocess.Popen[bytes]", http: httpx.Client, log: Callable[[], str]) -> bool:
    assert process.poll() is None, log()[-TAIL_CHARACTERS:]
    try:
        return http.get("/health/liveliness").status_code == 200
    except httpx.TransportError:
        return False


def test_the_documented_lines_run(client: Callable[[str], Client], server: Server) -> None:
    program = server.filled(example("python", HEADING))
    printed = client("litellm").run("python", "-c", program, timeout_s=TIMEOUT_S, variables=OFFLINE)
    assert printed.count("Paris") == 2, printed


def test_a_chat_goes_through_the_proxy(proxy: httpx.Client) -> None:
    answer = proxy.post("/v1/chat/completions", json=CHAT | {"temperature": 0})
    assert answer.status_code == 200, answer.text
    assert "Paris" in answer.json()["choices"][0]["message"]["content"], answer.text


def test_a_stream_goes_through_the_proxy(proxy: httpx.Client) -> None:
    whole = proxy.post("/v1/chat/completions", json=CHAT | {"temperature": 0}).json()["choices"][0]["message"]
    with proxy.stream("POST", "/v1/chat/completions", json=CHAT | {"temperature": 0, "stream": True}) as answer:
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert answer.status_code == 200 and events[-1] == "[DONE]", events
    deltas = [as_object(event)["choices"][0]["delta"] for event in events[:-1]]
    assert "".join(delta.get("content") or "" for delta in deltas) == whole["content"], events


def test_an_error_goes_through_the_proxy(proxy: httpx.Client) -> None:
    answer = proxy.post("/v1/chat/completions", json=CHAT | {"temperature": -1})
    assert answer.status_code == 400 and "temperature" in answer.text, answer.text


def test_a_batch_goes_through_the_proxy(proxy: httpx.Client, server: Server) -> None:
    if "/v1/batches" in server.lacks():
        pytest.skip(f"{server.url} has no /v1/batches")
    body = CHAT | {"model": server.model, "temperature": 0}
    lines = [
        {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for number in range(4)
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    form = {"purpose": "batch", "custom_llm_provider": "openai"}
    file = proxy.post("/v1/files", data=form, files={"file": ("requests.jsonl", content.encode())})
    assert file.status_code == 200, file.text
    asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "custom_llm_provider": "openai"}
    batch = proxy.post("/v1/batches", json=asked | {"input_file_id": file.json()["id"]}).json()
    deadline = time.monotonic() + BATCH_DEADLINE_S
    while batch["status"] not in FINISHED:
        assert time.monotonic() < deadline, batch
        time.sleep(0.5)
        batch = proxy.get(f"/v1/batches/{batch['id']}", params={"provider": "openai"}).json()
    assert batch["status"] == "completed" and batch["request_counts"]["completed"] == 4, batch
    results = proxy.get(f"/v1/files/{batch['output_file_id']}/content", params={"provider": "openai"})
    found = [as_object(line) for line in results.text.splitlines()]
    assert {line["custom_id"] for line in found} == {line["custom_id"] for line in lines}, results.text
    assert all("Paris" in line["response"]["body"]["choices"][0]["message"]["content"] for line in found), results.text
