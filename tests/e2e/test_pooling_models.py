"""A model that makes vectors, on real vLLM through HTTP."""

import base64
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.e2e.conftest import UNCOMPILED
from tests.exchanging import CHAT, Leaving, ask
from tests.service import BATCH, Json, Service, starting, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

EMBEDDINGS, MODEL, WIDTH = "/v1/embeddings", "vectors", 128
TEXTS = [f"a large river and {number} small machines" for number in range(300)]


@pytest.fixture(scope="module")
def early(embedding_model: Path) -> Iterator[tuple[Service, str]]:
    """A service, and the batch that it took in while nobody knew what its model does."""
    flags = (str(embedding_model), "--served-model-name", MODEL, "--enforce-eager")
    with starting(*flags, engine="vllm", dp_size=1, variables=UNCOMPILED) as running:
        batch = str(running.post(["a", [1, 2], "long " * 10_000], background=True).json()["id"])
        yield running.wait_ready(), batch


@pytest.fixture
def vectors(early: tuple[Service, str]) -> Service:
    return early[0]


@pytest.fixture
def client(vectors: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{vectors.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def answered(service: Service, path: str, **body: object) -> Json:
    answer = ask(service, path, **body)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def alone(service: Service, text: str) -> list[float]:
    (entry,) = answered(service, EMBEDDINGS, input=text)["data"]
    found: list[float] = entry["embedding"]
    return found


def is_close(one: list[float], other: list[float]) -> bool:
    return all(math.isclose(a, b, abs_tol=1e-5) for a, b in zip(one, other, strict=True))


def test_a_vector_has_length_one_and_its_texts_tokens_are_counted(vectors: Service) -> None:
    answer = answered(vectors, EMBEDDINGS, input=TEXTS[0])
    (entry,) = answer["data"]
    assert len(entry["embedding"]) == WIDTH
    assert math.isclose(math.hypot(*entry["embedding"]), 1, abs_tol=1e-5)
    tokens = answered(vectors, "/tokenize", prompt=TEXTS[0])["tokens"]
    assert answer["usage"]["prompt_tokens"] == len(tokens)
    assert answered(vectors, "/detokenize", tokens=tokens)["prompt"] == TEXTS[0]
    assert is_close(answered(vectors, EMBEDDINGS, input=tokens)["data"][0]["embedding"], entry["embedding"])


def test_a_long_list_has_its_vectors_in_order(vectors: Service) -> None:
    answer = answered(vectors, EMBEDDINGS, input=TEXTS)
    assert [entry["index"] for entry in answer["data"]] == list(range(len(TEXTS)))
    for place in (0, 17, 299):
        assert is_close(answer["data"][place]["embedding"], alone(vectors, TEXTS[place]))
    assert not is_close(answer["data"][0]["embedding"], answer["data"][1]["embedding"])
    (rank,) = until(lambda: [rank for rank in vectors.ranks() if rank["steps"]], "it has made no step")
    assert rank["kv_cache_tokens"] == 0  # an encoder keeps nothing of a prompt: many run at once
    assert rank["steps"] < len(TEXTS)


def test_vectors_come_in_the_form_that_is_asked_for(vectors: Service) -> None:
    expected = alone(vectors, TEXTS[0])
    (entry,) = answered(vectors, EMBEDDINGS, input=TEXTS[0], encoding_format="base64")["data"]
    assert is_close(list(struct.unpack(f"<{WIDTH}f", base64.b64decode(entry["embedding"]))), expected)
    (entry,) = answered(vectors, EMBEDDINGS, input=TEXTS[0], dimensions=WIDTH // 2)["data"]
    assert len(entry["embedding"]) == WIDTH // 2
    assert math.isclose(math.hypot(*entry["embedding"]), 1, abs_tol=1e-5)
    answer = ask(vectors, EMBEDDINGS, input=TEXTS[:20], encoding_format="bytes")
    places = json.loads(answer.headers["metadata"])["data"]
    assert [place["index"] for place in places] == list(range(20))
    first = answer.content[places[0]["start"] : places[0]["end"]]
    assert is_close(list(struct.unpack(f"<{WIDTH}f", first)), expected)


def test_texts_are_scored_and_ranked(vectors: Service) -> None:
    (entry,) = answered(vectors, "/score", text_1=TEXTS[0], text_2=TEXTS[0])["data"]
    assert math.isclose(entry["score"], 1, abs_tol=1e-4)
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        results = answered(vectors, path, query=TEXTS[0], documents=["something else", TEXTS[0]], top_n=1)["results"]
        assert [result["index"] for result in results] == [1]


def test_what_vllm_refuses_is_said_in_openais_words(vectors: Service) -> None:
    for body, said in (
        ({"input": TEXTS[0], "dimensions": 32}, f"Model '{MODEL}' only supports"),
        ({"input": []}, "at least one prompt"),
        ({"input": "river " * 9000}, "8192"),
        ({"input": TEXTS[0], "encoding_format": "roman"}, "encoding_format"),
        ({"input": [*TEXTS[:40], "river " * 9000]}, "8192"),
    ):
        answer = ask(vectors, EMBEDDINGS, **body)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
        assert said in error["message"]


def test_what_generates_is_refused_and_told_where_to_go(vectors: Service) -> None:
    (model,) = vectors.client.get("/v1/models").json()["data"]
    assert {EMBEDDINGS, "/pooling", "/score", "/rerank", "/tokenize", "/detokenize"} <= set(model["endpoints"])
    batch, chat = vectors.post(["Hello"]), ask(vectors, CHAT, messages=[{"role": "user", "content": "Hi"}])
    for path, answer in ((BATCH, batch), (CHAT, chat)):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (404, "not_offered")
        assert f"{MODEL!r} is a pooling model, which generates nothing and does not offer {path}" in error["message"]
        assert f"it offers {EMBEDDINGS}" in error["message"]


def test_prompts_that_were_taken_in_before_it_was_known_have_an_error_each(early: tuple[Service, str]) -> None:
    service, batch = early
    until(lambda: service.client.get(f"{BATCH}/{batch}").json()["status"] == "completed", "it does not end")
    results = [json.loads(line) for line in service.client.get(f"{BATCH}/{batch}/results").text.splitlines()]
    errors = [result["error"] for result in results if "error" in result]
    assert [error["code"] for error in errors] == ["invalid_prompt"] * 3
    assert f"{MODEL!r} is a pooling model" in errors[0]["message"]


def test_openais_package_gets_vectors(vectors: Service, client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input=TEXTS[:3])
    assert [entry.index for entry in answer.data] == [0, 1, 2]
    assert is_close(answer.data[2].embedding, alone(vectors, TEXTS[2]))


def test_a_batch_of_a_file_has_a_line_for_each_request(vectors: Service, client: openai.OpenAI) -> None:
    lines = [
        {"custom_id": str(number), "method": "POST", "url": EMBEDDINGS, "body": {"model": MODEL, "input": [text, "a"]}}
        for number, text in enumerate(TEXTS[:40])
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=EMBEDDINGS, completion_window="24h")
    until(lambda: client.batches.retrieve(batch.id).status == "completed", "it does not end")
    done = client.batches.retrieve(batch.id)
    assert done.usage is not None
    assert done.usage.input_tokens > 80
    assert done.output_file_id is not None
    answers = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
    found = {answer["custom_id"]: answer["response"]["body"]["data"] for answer in answers}
    assert found.keys() == {str(number) for number in range(40)}
    assert is_close(found["7"][0]["embedding"], alone(vectors, TEXTS[7]))


def test_a_client_that_goes_frees_the_engine(vectors: Service) -> None:
    client = Leaving(vectors, EMBEDDINGS, input=["river " * 250] * 4000)
    until(lambda: any(vectors.held), "it does not run")
    client.leave()
    until(lambda: vectors.is_idle() and vectors.metric("vllm:num_requests_running") == 0, "it runs on")
    assert vectors.metric("phalanx_exchanges_total", path=EMBEDDINGS, status="cancelled") > 0
