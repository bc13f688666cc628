"""A model that generates nothing, on simulated ranks: its vectors, and the refusal of everything else."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.exchanging import CHAT, ask
from tests.files import uploaded
from tests.service import BATCH, COMMAND, Json, Service, starting, until

EMBEDDINGS = "/v1/embeddings"
OFFERED = [EMBEDDINGS, "/tokenize", "/detokenize"]
ARGUMENTS = {"generates": False, "crash_on": "poison"}
SAID = "is a pooling model, which generates nothing and does not offer"


@pytest.fixture(scope="module")
def early() -> Iterator[tuple[Service, str]]:
    """A service, and the batch that it took in while nobody knew what its model does."""
    with starting("--restart-backoff-s", "50ms", start_s=0.3, **ARGUMENTS) as service:
        service.errors_expected = True
        batch = service.post(["a", "b"], background=True).json()["id"]
        yield service.wait_ready(), batch


@pytest.fixture
def service(early: tuple[Service, str]) -> Service:
    return early[0]


def refused(service: Service, **fields: object) -> Json:
    answer = service.post(["a"], **fields)
    error: Json = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "not_offered")
    return error


def test_the_model_says_what_it_does(service: Service) -> None:
    (model,) = service.client.get("/v1/models").json()["data"]
    assert model["endpoints"] == OFFERED
    assert f"curl {service.url}{EMBEDDINGS} " in service.log  # a line to paste, once it is ready


def test_a_long_list_is_spread_over_the_ranks_and_put_together(service: Service) -> None:
    texts = [f"text {number}" for number in range(300)]
    answer = ask(service, EMBEDDINGS, input=texts).json()
    assert [entry["index"] for entry in answer["data"]] == list(range(300))
    assert answer["data"][77]["embedding"] == ask(service, EMBEDDINGS, input=texts[77]).json()["data"][0]["embedding"]
    assert answer["usage"]["prompt_tokens"] > 300
    until(lambda: all(rank["steps"] for rank in service.ranks()), "a rank has made nothing")


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"dry_run": True}, {"background": True}], ids=str)
def test_a_batch_is_refused_in_every_form_and_told_where_to_go(service: Service, fields: Json) -> None:
    error = refused(service, **fields)
    assert f"{SAID} {BATCH}: it offers {', '.join(OFFERED)}" in error["message"]


def test_lines_are_refused_as_well(service: Service) -> None:
    answer = service.client.post(BATCH, content=b'"a"\n', headers={"Content-Type": "application/x-ndjson"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_offered")


def test_a_batch_from_before_it_was_known_has_an_error_for_each_prompt(early: tuple[Service, str]) -> None:
    service, batch = early
    place = f"{BATCH}/{batch}"
    until(lambda: service.client.get(place).json()["status"] == "completed", "it does not end")
    results = [json.loads(line) for line in service.client.get(f"{place}/results").text.splitlines()]
    assert [result["error"]["code"] for result in results if "error" in result] == ["invalid_prompt"] * 2


def test_the_command_line_says_it_as_well(service: Service, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n')
    command = [COMMAND, "generate", "in.jsonl", "out.jsonl", "--url", service.url]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert SAID in done.stderr


def test_what_generates_is_refused(service: Service) -> None:
    error = ask(service, CHAT, messages=[{"role": "user", "content": "Hi"}]).json()["error"]
    assert (error["code"], f"{SAID} {CHAT}" in error["message"]) == ("not_offered", True)


def test_batches_of_files_are_for_what_it_does(service: Service) -> None:
    lines = [
        {"custom_id": f"{number}", "method": "POST", "url": EMBEDDINGS, "body": {"input": [f"a {number}", "b"]}}
        for number in range(20)
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = uploaded(service, content, "in.jsonl", purpose="batch")["id"]
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as wrong:
            client.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")
        assert (wrong.value.param, wrong.value.code) == ("endpoint", "not_offered")
        batch = client.batches.create(input_file_id=file, endpoint=EMBEDDINGS, completion_window="24h")
        until(lambda: client.batches.retrieve(batch.id).status == "completed", "it does not end")
        done = client.batches.retrieve(batch.id)
        assert done.output_file_id is not None
        answers = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
    assert {answer["custom_id"] for answer in answers} == {f"{number}" for number in range(20)}
    assert all(len(answer["response"]["body"]["data"]) == 2 for answer in answers)


def test_a_text_that_crashes_the_engine_is_convicted(service: Service) -> None:
    answer = ask(service, EMBEDDINGS, input=["well", "a poison"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "poisoned")
    again = ask(service, EMBEDDINGS, input=["well", "a poison"])
    assert "has crashed its engine" in again.json()["error"]["message"]
    assert len(ask(service, EMBEDDINGS, input=["well", "all of it"]).json()["data"]) == 2
    service.wait_ready()
