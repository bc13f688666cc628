"""Requests of OpenAI's API, over HTTP, on simulated ranks: what comes back, in what order, and what it counts as."""

from collections.abc import Iterator

import pytest

from tests.exchanging import CHAT, COMPLETIONS, DONE, ask, streaming, texts_of, usage_of
from tests.service import Json, Service, serving

MODEL = "phalanx-simulated"
CHATTED = {"messages": [{"role": "user", "content": "Say something long"}]}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving("--max-batch-items", "2000", max_num_seqs=64) as service:
        yield service


def refused(service: Service, path: str, status: int, **body: object) -> Json:
    answer = ask(service, path, **body)
    assert answer.status_code == status, answer.text
    error: Json = answer.json()["error"]
    assert error["code"] is None or isinstance(error["code"], str)
    return error


def text_of(choice: Json) -> str:
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


@pytest.mark.parametrize(("path", "prompt"), [(COMPLETIONS, {"prompt": "Once"}), (CHAT, CHATTED)])
def test_a_stream_says_what_a_whole_answer_says(service: Service, path: str, prompt: Json) -> None:
    body = {**prompt, "max_tokens": 20, "n": 2, "seed": 7}
    whole = ask(service, path, **body)
    assert whole.headers["content-type"] == "application/json"
    with streaming(service, path, **body, stream_options={"include_usage": True}) as stream:
        assert stream.answer.headers["content-type"].startswith("text/event-stream")
        events = list(stream)
    assert events[-1] == DONE
    choices = whole.json()["choices"]
    said = {
        choice["index"]: choice["text"] if path == COMPLETIONS else choice["message"]["content"] for choice in choices
    }
    assert texts_of(events) == said
    assert len(said) == 2
    assert usage_of(events) == whole.json()["usage"]


def test_an_answer_carries_the_id_of_its_request(service: Service) -> None:
    answer = service.client.post(COMPLETIONS, json={"prompt": "x"}, headers={"X-Request-ID": "mine-1"})
    assert answer.headers["X-Request-ID"] == "mine-1"
    assert "mine-1" in answer.json()["id"]


def test_a_list_of_prompts_is_answered_as_one(service: Service) -> None:
    """More than vLLM's own server takes in a list; and not as one item, which would wait for an empty rank."""
    before = service.metric("phalanx_exchanges_total", path=COMPLETIONS, status="ok")
    prompts = [f"number {number}" for number in range(1200)]
    answer = ask(service, COMPLETIONS, prompt=prompts, max_tokens=3, n=2).json()
    assert [choice["index"] for choice in answer["choices"]] == list(range(2400))
    alone = ask(service, COMPLETIONS, prompt=prompts[777], max_tokens=3, n=2).json()
    assert [choice["text"] for choice in answer["choices"][2 * 777 : 2 * 778]] == [c["text"] for c in alone["choices"]]
    assert answer["usage"]["completion_tokens"] == 2400 * 3
    assert service.metric("phalanx_exchanges_total", path=COMPLETIONS, status="ok") - before == 1201


def test_a_list_of_prompts_streams_as_one(service: Service) -> None:
    body = {"prompt": ["one", "two", "three"], "max_tokens": 5, "n": 2}
    whole = ask(service, COMPLETIONS, **body).json()
    with streaming(service, COMPLETIONS, **body, stream_options={"include_usage": True}) as stream:
        events = list(stream)
    assert events[-1] == DONE
    assert events.count(DONE) == 1
    assert texts_of(events) == {choice["index"]: choice["text"] for choice in whole["choices"]}
    assert usage_of(events) == whole["usage"]
    assert len({event["id"] for event in events if isinstance(event, dict)}) == 1


def test_a_list_of_inputs_has_an_embedding_each(service: Service) -> None:
    inputs = [f"text {number}" for number in range(40)]
    answer = ask(service, "/v1/embeddings", input=inputs).json()
    assert [entry["index"] for entry in answer["data"]] == list(range(40))
    alone = ask(service, "/v1/embeddings", input=inputs[33]).json()
    assert answer["data"][33]["embedding"] == alone["data"][0]["embedding"]


def test_tokens_go_both_ways(service: Service) -> None:
    tokens = ask(service, "/tokenize", prompt="hello world!").json()["tokens"]
    text = ask(service, "/detokenize", tokens=tokens).json()["prompt"]  # made up of pieces of four characters, too
    assert (len(tokens), len(text)) == (3, 12)


def test_what_is_wrong_is_said_in_openais_words(service: Service) -> None:
    error = refused(service, CHAT, 404, **CHATTED, model="another")
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    error = refused(service, COMPLETIONS, 400, prompt=5)
    assert error["type"] == "invalid_request_error"
    error = refused(service, COMPLETIONS, 400, prompt=["well", ""], max_tokens=2)
    assert error["type"] == "invalid_request_error"
    error = refused(service, "/v1/responses", 404, input="x")
    assert (error["code"], "/v1/responses" in error["message"]) == ("not_offered", True)
    error = refused(service, COMPLETIONS, 400, prompt=["x", [5]], max_tokens=2)
    assert error["type"] == "invalid_request_error"
    error = refused(service, COMPLETIONS, 413, prompt=["x"] * 2001)
    assert "--max-batch-items" in error["message"]
    error = refused(service, COMPLETIONS, 400, prompt="x", priority=10**12)
    assert error["param"] == "priority"
    broken = service.client.post(COMPLETIONS, content=b'{"prompt": ', headers={"Content-Type": "application/json"})
    assert broken.status_code == 400
    assert service.client.post(COMPLETIONS, content=b"x").status_code == 415


def test_no_model_and_an_empty_one_are_the_one_that_is_served(service: Service) -> None:
    for asked in ({}, {"model": None}, {"model": ""}):
        assert ask(service, COMPLETIONS, prompt="x", max_tokens=2, **asked).status_code == 200


def test_a_stream_that_is_refused_has_the_status_that_says_so(service: Service) -> None:
    with streaming(service, COMPLETIONS, prompt=[], max_tokens=2) as stream:
        assert stream.answer.status_code == 400
        stream.answer.read()
        assert stream.answer.json()["error"]["type"] == "invalid_request_error"


def test_nothing_is_left_of_them(service: Service) -> None:
    assert service.is_idle()
    assert service.metric("phalanx_active_exchanges") == service.metric("phalanx_held_bytes") == 0
