"""What a rank on real vLLM is made to suffer by requests in OpenAI's API: each is refused or answered, and it lives on.

vLLM's application makes parameters of them, and what is refused by whom is not said: a status of the 400s is enough.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.e2e.conftest import has_to_wait
from tests.edge_values import PARAMS
from tests.exchanging import CHAT, COMPLETIONS, MESSAGES, RESPONSES, ask, streaming
from tests.service import Json, Service, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CLIENTS = 16  # at once
HI = [{"role": "user", "content": "Hi"}]
PROMPTED: dict[str, Json] = {
    COMPLETIONS: {"prompt": "Hello", "max_tokens": 2},
    CHAT: {"messages": HI, "max_tokens": 2},
    RESPONSES: {"input": "Hi", "max_output_tokens": 2},
}
STRUCTURES: list[Json] = json.loads(Path(__file__).parents[1].joinpath("structures.json").read_text())
REFUSED = {entry["name"]: entry for entry in STRUCTURES if entry["expected"] == "refused"}
EXPLODING: Json = {"type": "object", "properties": {f"q{number}": {} for number in range(5000)}}
TEMPLATE = "{% for number in range(10**12) %}{% endfor %}"
NOWHERE = "http://127.0.0.1:9/x.png"  # a port where nobody listens
HOSTILE: dict[str, Json] = {
    "a seed beyond 64 bits": {"seed": 2**63},
    "a seed whose next is beyond": {"seed": 2**63 - 1, "n": 2},
    "a seed far below": {"seed": -(2**70)},
    "more outputs than vLLM takes": {"n": 10**6},
    "more outputs than 32 bits": {"n": 2**31},
    "more outputs than 64 bits": {"n": 2**70},
    "no output": {"n": 0},
    "many stop strings": {"stop": [f"{number:05}" for number in range(10_000)]},
    "a stop token beyond the vocabulary": {"stop_token_ids": [10**6]},
    "a bias beyond the vocabulary": {"logit_bias": {"99999": 1}},
    "allowed tokens beyond the vocabulary": {"allowed_token_ids": [10**7]},
    "logprobs without end": {"prompt_logprobs": 10**6},
    "patterns without end": {
        "repetition_detection": {"max_pattern_size": 10**6, "min_pattern_size": 1, "min_count": 2}
    },
    "arguments of plugins": {"vllm_xargs": {"a": 1}},
    "a key-value cache from elsewhere": {"kv_transfer_params": {"do_remote_prefill": True, "remote_host": "127.0.0.1"}},
    "what debugs vLLM": {"routed_experts_prompt_start": 1},
    "a priority beyond all": {"priority": 10**12},
    "tokens without end": {"max_tokens": 10**10},
    "a truncation beyond the context": {"truncate_prompt_tokens": 10**9},
    "two structures": {"structured_outputs": {"regex": "a", "choice": ["a"]}},
    "another model": {"model": "another"},
}
LIMITED: dict[str, list[Json]] = {  # one more than the default of a setting
    "--max-n": [{"n": 129}],
    "--max-stop-strings": [{"stop": [f"{number:05}" for number in range(65)]}],
    "--max-string-length": [{"stop": "x" * 4097}, {"stop": ["a", "x" * 4097]}, {"bad_words": ["x" * 4097]}],
    "--max-list-length": [{"structured_outputs": {"choice": [f"{number:05}" for number in range(4097)]}}],
    "--max-structure-length": [{"structured_outputs": {"regex": "a" * 65_537}}],
}
REFUSED_CHATS: dict[str, Json] = {
    "an image from elsewhere": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": NOWHERE}}]}]
    },
    "a local video": {
        "messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "file:///etc/passwd"}}]}]
    },
    "a template that never ends": {"messages": HI, "chat_template": TEMPLATE},
    "the same in another place": {"messages": HI, "chat_template_kwargs": {"chat_template": TEMPLATE}},
    "a chat without end": {"messages": HI * 40_000},
    "processors of media": {"messages": HI, "mm_processor_kwargs": {"a": 1}},
}
REFUSED_BODIES: dict[str, tuple[str, Json]] = {
    "nothing": (COMPLETIONS, {"prompt": []}),
    "no prompt": (COMPLETIONS, {"prompt": {"a": 1}}),
    "a token that is none": (COMPLETIONS, {"prompt": [5, -1]}),
    "a token beyond the vocabulary": (COMPLETIONS, {"prompt": [5, 2**70]}),
    "a text without end": (COMPLETIONS, {"prompt": "word " * 800_000}),
    "more beams than are served": (COMPLETIONS, {"prompt": "x", "use_beam_search": True, "n": 1000}),
    "embeddings for a prompt": (COMPLETIONS, {"prompt_embeds": "AAAA"}),
    "an input without end": (RESPONSES, {"input": "word " * 800_000}),
    "a response in the background": (RESPONSES, {"input": "Hi", "background": True}),
    "a response that goes on": (RESPONSES, {"input": "Hi", "previous_response_id": "resp_1"}),
    "a temperature beyond all": (RESPONSES, {"input": "Hi", "temperature": 1e300}),
    "logprobs that others would get": (COMPLETIONS, {"prompt": "Hi", "logprobs": 1, "logprob_token_ids": [5]}),
    "tokens to read beyond the vocabulary": ("/detokenize", {"tokens": [-5]}),
}


@pytest.fixture(autouse=True)
def _unharmed(one_rank: Service) -> Iterator[None]:
    """After each attack the rank that always was there answers, and nothing is left of it."""
    yield
    for path, body in PROMPTED.items():
        answer = ask(one_rank, path, **body)
        assert answer.status_code == 200, answer.text
    assert [rank["incarnation"] for rank in one_rank.ranks()] == [1]
    until(one_rank.is_idle, "something is left")
    assert one_rank.metric("phalanx_held_bytes") == 0


def check_refused(answer: httpx.Response) -> Json:
    assert 400 <= answer.status_code < 500, answer.text[:1000]
    assert answer.headers["content-type"] == "application/json"
    error: Json = answer.json()["error"]
    assert error["message"]
    assert isinstance(error["details"]["error_code"] if "details" in error else error["code"], str)
    return error


def check_all_refused(service: Service, requests: list[tuple[str, Json]]) -> None:
    """Whole and streamed."""
    bodies = [(path, body | {"stream": streams}) for path, body in requests for streams in (False, True)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        for answer in clients.map(lambda request: ask(service, request[0], **request[1]), bodies):
            check_refused(answer)


@settings(max_examples=6, derandomize=True)
@given(st.lists(PARAMS, min_size=20, max_size=20))
def test_any_numbers_run_or_are_refused(one_rank: Service, params: list[str]) -> None:
    """Each in a completion, in a chat, and in a stream. The last of two fields of one name counts."""
    starts = ('{"prompt":"Hello"', '{"messages":[{"role":"user","content":"Hi"}]', '{"stream":true,"prompt":"Hello"')
    given = [f",{fields[1:-1]}" if fields != "{}" else "" for fields in params]
    bodies = [f'{start}{fields},"max_tokens":2}}' for start in starts for fields in given]

    def post(body: str) -> httpx.Response:
        path = CHAT if "messages" in body else COMPLETIONS
        headers = {"Content-Type": "application/json"}
        return one_rank.client.post(path, content=body, headers=headers)

    with ThreadPoolExecutor(CLIENTS) as clients:
        for answer in clients.map(post, bodies):
            if answer.status_code != 200:
                check_refused(answer)
            elif answer.headers["content-type"] != "application/json":
                assert answer.text.endswith("data: [DONE]\n\n")
                assert '"error"' not in answer.text


def test_what_no_rank_could_bear_is_refused(one_rank: Service) -> None:
    requests = [(path, PROMPTED[path] | fields) for path in (COMPLETIONS, CHAT) for fields in HOSTILE.values()]
    check_all_refused(one_rank, requests)


@pytest.mark.parametrize("name", LIMITED)
def test_the_limits_of_items_are_those_of_exchanges(one_rank: Service, name: str) -> None:
    """With the words of our own route, whole and streamed."""
    for fields in LIMITED[name]:
        ours = one_rank.post(["Hello"], sampling_params=fields).json()["error"]["message"]
        for path in (COMPLETIONS, CHAT):
            for streams in (False, True):
                answer = ask(one_rank, path, **PROMPTED[path], **fields, stream=streams)
                assert f"sampling_params.{check_refused(answer)['message']}" == ours
                assert answer.status_code == 400


def test_what_is_no_good_prompt_is_refused(one_rank: Service) -> None:
    check_all_refused(one_rank, [*REFUSED_BODIES.values(), *((CHAT, body) for body in REFUSED_CHATS.values())])


@pytest.mark.parametrize("name", ["extra_args", "output_kind"])
def test_a_field_that_vllms_api_does_not_have_does_nothing(one_rank: Service, name: str) -> None:
    body: Json = PROMPTED[COMPLETIONS] | {"temperature": 0}
    answers = [ask(one_rank, COMPLETIONS, **body, **more).json() for more in ({}, {name: 1})]
    assert answers[0]["choices"] == answers[1]["choices"]


@pytest.mark.parametrize("deep", [100, 1000, 100_000])
def test_what_is_nested_deeply_is_refused_or_answered(one_rank: Service, deep: int) -> None:
    nested = "[" * deep + "]" * deep
    for path, body in PROMPTED.items():
        for place in (
            '"a": 1',
            f'"metadata": {nested}',
            f'"structured_outputs": {{"json": {{"properties": {nested}}}}}',
        ):
            content = f"{json.dumps(body)[:-1]}, {place}}}"
            answer = one_rank.client.post(path, content=content, headers={"Content-Type": "application/json"})
            if answer.status_code != 200:
                check_refused(answer)


def test_structures_that_cannot_be_held_are_refused_by_name_in_streams_too(one_rank: Service) -> None:
    def said(request: tuple[str, Json]) -> str:
        path, body = request
        for _ in range(10):  # on a slow machine they wait too long for each other
            answer = ask(one_rank, path, **body)
            if not has_to_wait(answer.json()):
                break
        return str(check_refused(answer)["message"])

    with ThreadPoolExecutor(4) as clients:
        for place, entry in enumerate(REFUSED.values()):
            requests = [
                (path, PROMPTED[path] | {"stream": streams, "structured_outputs": entry["structure"]})
                for path in PROMPTED
                for streams in (False, True)
            ]
            some = requests if place % 8 == 0 else requests[:2]
            messages = [said(some[0]), *clients.map(said, some[1:])]  # a stream that waited long would have begun
            for message in messages:
                assert all(word in message for word in entry["names"]), (entry["name"], message)


def test_a_structure_that_explodes_is_refused_and_nobody_waits_for_it(one_rank: Service) -> None:
    """As a format of a response, and of messages, which stream, too."""
    with ThreadPoolExecutor(CLIENTS) as aside:
        form = {"type": "json_schema", "name": "x", "schema": EXPLODING}
        first = aside.submit(ask, one_rank, RESPONSES, input="Hi", text={"format": form})
        until(lambda: one_rank.held != [0] or first.done(), "it does not come")
        for body in PROMPTED.values():
            assert "prompt" not in body or ask(one_rank, COMPLETIONS, **body).status_code == 200
        assert "use a simpler one" in check_refused(first.result())["message"]
    model = one_rank.client.get("/v1/models").json()["data"][0]["id"]
    config = {"format": {"type": "json_schema", "schema": EXPLODING}}
    for streams in (False, True):
        body: Json = {"model": model, "messages": HI, "max_tokens": 5, "output_config": config, "stream": streams}
        check_refused(ask(one_rank, MESSAGES, **body))


def test_many_tools_are_a_structure_too(one_rank: Service) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": EXPLODING}}]
    check_all_refused(one_rank, [(CHAT, {"messages": HI, "tools": tools, "tool_choice": "required", "max_tokens": 2})])


def test_what_goes_through_a_window_of_many_outputs_comes_whole(one_rank: Service) -> None:
    with streaming(one_rank, COMPLETIONS, prompt="Hello", n=128, max_tokens=20, ignore_eos=True) as stream:
        events = list(stream)
    ends = [event for event in events if isinstance(event, dict) and event["choices"][0]["finish_reason"] == "length"]
    assert len(ends) == 128


def test_a_streams_lines_end_only_where_they_should(one_rank: Service) -> None:
    """Also for readers to whom any of Unicode's line ends is one, such as those that use httpx's `iter_lines`."""
    prompt = "a\u2028b\x85c\u2029"
    body = {"prompt": prompt, "echo": True, "max_tokens": 1, "stream": True}
    with one_rank.client.stream("POST", COMPLETIONS, json=body) as answer:
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["text"] for event in events).startswith(prompt)
