"""What --max-held-bytes bounds is the gateway's real memory, at its worst: while prompts are taken in."""

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.processes import peak_bytes
from tests.service import BATCH, DEADLINE_S, Json, Service, as_object, serving

MB = 1_000_000
MAX_HELD_BYTES = 150 * MB
OVERHEAD_BYTES = 40 * MB  # of buffers, of objects that are not bytes of anybody's, and of the allocator
CLIENTS = 4
FLAGS = ("--max-held-bytes", f"{MAX_HELD_BYTES}", "--max-waiting-tokens", "1G", "--max-waiting-items", "1M")
PROMPTS: list[Json] = [  # of 40 MB
    {"messages": [{"role": "user", "content": "word " * 200}], "custom_id": f"{number}", "metadata": {"row": number}}
    for number in range(37_000)
]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """Nothing ends while the test looks."""
    with serving(*FLAGS, step_ms=1000, max_num_seqs=1) as service:
        yield service


def post(service: Service, body: bytes) -> tuple[http.client.HTTPConnection, int, str | None]:
    """A connection, the status of its answer, and the code of its error."""
    client = http.client.HTTPConnection("127.0.0.1", service.port, timeout=DEADLINE_S)
    client.request("POST", BATCH, body, {"Content-Type": "application/json"})
    answer = client.getresponse()
    code = None if answer.status == 200 else as_object(answer.read().decode())["error"]["code"]
    return client, answer.status, code


def test_large_batches_at_once_take_no_more_memory_than_is_allowed(service: Service) -> None:
    fields = {"prompts": PROMPTS, "sampling_params": {"max_tokens": 100}, "return_prompt": True}
    body = json.dumps(fields).encode()
    assert len(body) > 40 * MB
    before = peak_bytes(service.process.pid)
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = [sent.result() for sent in [clients.submit(post, service, body) for _ in range(CLIENTS)]]
    grown = peak_bytes(service.process.pid) - before
    for client, _, _ in answers:
        client.close()
    assert {answer[1:] for answer in answers} == {(200, None), (503, "memory_full")}  # there is no room for all
    assert grown < MAX_HELD_BYTES + OVERHEAD_BYTES


def test_a_batch_that_can_never_be_held_is_413(service: Service) -> None:
    client, status, code = post(service, json.dumps({"prompts": ["x" * MB] * 80}).encode())
    client.close()
    assert (status, code) == (413, "body_too_large")
