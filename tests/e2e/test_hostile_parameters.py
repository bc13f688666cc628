"""What a rank on real vLLM is made to suffer: structures that explode, prompts without end, parameters at their bounds.

Each is refused or answered, the rank goes on, and whoever shares it hardly notices.
"""

import json
import time
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import judged
from tests.raw_client import loop_worked_s
from tests.service import Json, Service, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MAX_WAIT_S = 60.0  # of a plain prompt: what explodes takes minutes, and a core may be long in coming
MAX_WORK_S = 5.0  # CPU time of the rank's loop until a plain prompt is answered, however long the loop waits for a core
MANY = {"type": "object", "properties": {f"p{number}": {} for number in range(5000)}}
EITHER = {"anyOf": [{"type": "string"}, {"type": "integer"}]}
# Minutes of CPU time each, if they were let.
EXPLODING: dict[str, Json] = {
    "thousands of properties, all optional": {"json": MANY},
    "the same as text": {"json": json.dumps(MANY)},
    "choices in each of many properties": {
        "json": {"type": "object", "properties": {f"{number}": EITHER for number in range(1000)}}
    },
}
# Some compile, some do not; none may take long.
SUSPICIOUS: dict[str, Json] = {
    "nested repetitions": {"regex": "((a{1,300}){1,300}){1,300}"},
    "nested quantifiers": {"regex": "(((a+)+)+)+b"},
    "optional repetitions": {"regex": "(a?){30000}a{30000}"},
    "a long repetition": {"regex": ".{50000}"},
    "many alternatives": {"regex": "|".join(f"word{number}" for number in range(5000))},
    "deep parentheses": {"regex": "(" * 30_000 + "a" + ")" * 30_000},
    "an open parenthesis": {"regex": "(" * 60_000},
    "a lookahead": {"regex": "(?=a)(?!b)a"},
    "a backreference": {"regex": "(a)\\1"},
    "a NUL": {"regex": "a\0b"},
    "an empty regex": {"regex": ""},
    "many enums": {"json": {"enum": [f"v{number}" for number in range(5000)]}},
    "huge bounds": {"json": {"type": "array", "items": {"type": "integer"}, "minItems": 10**9, "maxItems": 10**9}},
    "a long string": {"json": {"type": "string", "minLength": 10**6, "maxLength": 10**7}},
    "an exploding pattern": {"json": {"type": "string", "pattern": "((a{1,300}){1,300}){1,300}"}},
    "a circle of references": {
        "json": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
    },
    "a reference that doubles": {
        "json": {
            "$ref": "#/$defs/d0",
            "$defs": {
                **{f"d{n}": {"type": "array", "prefixItems": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)},
                "d40": {"type": "string"},
            },
        }
    },
    "a reference elsewhere": {"json": {"$ref": "http://127.0.0.1:1/x"}},
    "a schema of nonsense": {"json": {"type": ["x", 5, None], "properties": [], "items": 7, "enum": {}}},
    "left recursion": {"grammar": 'root ::= root "a" | "a"'},
    "ambiguity": {"grammar": 'root ::= e\ne ::= e "+" e | e e | [a-z]* | [a-z]+ e'},
    "ambiguity that grows with each token": {"grammar": 'root ::= root root root | root root | [a-z] | ""'},
    "more of it": {
        "grammar": " | ".join(["root ::= root root root root root", *(" ".join(["root"] * n) for n in (4, 3, 2))])
        + ' | [a-z] | ""'
    },
    "the same as a regex": {"regex": "([a-z]*)*([a-z]*)*x"},
    "doubling rules": {
        "grammar": "\n".join(f"r{n} ::= r{n + 1} r{n + 1}" for n in range(60)) + '\nr60 ::= "a"\nroot ::= r0'
    },
    "nested counts": {"grammar": 'root ::= (("a"{1,1000}){1,1000}){1,1000}'},
    "a grammar without an end": {"grammar": "root ::= root"},
    "no grammar": {"grammar": "\0\0\0"},
    "Lark": {"grammar": 'start: "a" start | "b"'},
    "a tag of nothing": {"structural_tag": "{}"},
    "a tag with a schema": {
        "structural_tag": json.dumps(
            {"structures": [{"begin": "<a>", "schema": MANY, "end": "</a>"}], "triggers": ["<a"]}
        )
    },
    "many choices": {"choice": [f"choice {number}" for number in range(3000)]},
    "an empty choice": {"choice": [""]},
}


def item(structure: Json, **params: Any) -> Json:
    return {"prompt": "Hello", "sampling_params": {"structured_outputs": structure, "max_tokens": 4} | params}


def check_alive(service: Service) -> None:
    """A plain prompt is answered by the rank that always was there, and hardly notices what else is there."""
    (pid,) = service.titled("phalanx-rank 0")
    worked_s, began = loop_worked_s(pid), time.monotonic()
    assert service.batch(["Hello"], sampling_params={"max_tokens": 2})["request_counts"]["ok"] == 1
    assert time.monotonic() - began < MAX_WAIT_S
    assert [rank["incarnation"] for rank in service.ranks()] == [1]
    assert loop_worked_s(pid) - worked_s < MAX_WORK_S


def compiled_s(service: Service) -> float:
    """CPU time that compiling has taken so far: of the lanes, and of their children, dead or alive."""
    return sum(sum(psutil.Process(pid).cpu_times()[:4]) for pid in service.titled("phalanx-structures"))


@pytest.mark.parametrize("name", EXPLODING)
def test_a_structure_that_explodes_is_refused_and_nobody_waits_for_it(one_rank: Service, name: str) -> None:
    structure = EXPLODING[name]
    items = [item(structure), "plain", item({"regex": "[ab]{2}"})]
    before = one_rank.metric("phalanx_items_total")
    with one_rank.begin(items) as pending:
        until(lambda: one_rank.held != [0] or one_rank.metric("phalanx_items_total") > before, "the rank holds them")
        for _ in range(3):
            check_alive(one_rank)
        answer = pending.answer()
    refused, plain, structured = judged(one_rank, items, answer["results"])
    assert refused["error"]["code"] == "invalid_sampling_params"
    assert refused["error"]["param"] == "prompts[0].sampling_params.structured_outputs"
    assert "use a simpler one" in refused["error"]["message"]
    assert (plain["status"], structured["status"]) == ("ok", "ok")
    assert set(structured["outputs"][0]["text"]) <= {"a", "b"}
    compiled_before_s = compiled_s(one_rank)
    again = one_rank.batch([item(structure, temperature=0.5)] * 20)
    assert {result["error"]["code"] for result in again["results"]} == {"invalid_sampling_params"}
    assert compiled_s(one_rank) - compiled_before_s < 0.1, "a verdict is remembered"


def test_it_is_refused_with_400_when_it_is_the_batchs(one_rank: Service) -> None:
    answer = one_rank.post(["a", "b"], sampling_params={"structured_outputs": EXPLODING["the same as text"]})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == "sampling_params.structured_outputs"
    check_alive(one_rank)


def test_suspicious_structures_are_refused_or_followed_and_the_rank_goes_on(one_rank: Service) -> None:
    items = [item(structure) for structure in SUSPICIOUS.values()]
    with one_rank.begin(items) as pending:
        for _ in range(3):
            check_alive(one_rank)
        results = judged(one_rank, items, pending.answer()["results"])
    for name, result in zip(SUSPICIOUS, results, strict=True):
        if result["status"] == "error":
            assert result["error"]["code"] == "invalid_sampling_params", (name, result)
            assert len(result["error"]["message"]) < 1000
        else:
            assert result["status"] == "ok", (name, result)
    statuses = dict(zip(SUSPICIOUS, (result["status"] for result in results), strict=True))
    assert statuses["many choices"] == statuses["nested quantifiers"] == "ok"
    assert statuses["a circle of references"] == statuses["no grammar"] == "error"
    assert statuses["more of it"] == "error"  # with less of it a token costs about what is allowed
    assert statuses["the same as a regex"] == "ok", "an automaton does not mind"
    check_alive(one_rank)


def test_many_items_with_structures_of_their_own_are_followed(one_rank: Service) -> None:
    words = [f"w{number:03}" for number in range(200)]
    items = [item({"choice": [word, word + "x"]}, max_tokens=20) for word in words]
    results = judged(one_rank, items, one_rank.batch(items)["results"])
    texts = [result["outputs"][0]["text"] for result in results]
    assert all(text.removesuffix("x") == word for text, word in zip(texts, words, strict=True))


PARAMS_AT_THEIR_BOUNDS: dict[str, Json] = {
    "logit_bias": {"logit_bias": {str(token): 0.5 for token in range(1000)}},
    "allowed_token_ids": {"allowed_token_ids": list(range(1000))},
    "stop_token_ids": {"stop_token_ids": list(range(24, 1000))},
    "stop": {"stop": [f"{number:02}" + "x" * 1000 for number in range(64)]},
    "bad_words": {"bad_words": [f"{number:02}" + " word" * 3 for number in range(64)]},
    "n": {"n": 128, "temperature": 1.0},
    "logprobs": {"logprobs": 20, "prompt_logprobs": 20},
}


@pytest.mark.parametrize("name", PARAMS_AT_THEIR_BOUNDS)
def test_parameters_at_their_bounds_cost_the_others_little(one_rank: Service, name: str) -> None:
    params = {"max_tokens": 8} | PARAMS_AT_THEIR_BOUNDS[name]
    count = 4 if name == "n" else 128
    with one_rank.begin([{"prompt": f"Hello {n}", "sampling_params": params} for n in range(count)]) as pending:
        check_alive(one_rank)
        assert pending.answer()["request_counts"]["ok"] == count


def test_prompts_without_end_are_refused_and_nobody_waits_for_them(one_rank: Service) -> None:
    text = "word " * 800_000
    small_talk = [{"role": "user", "content": "Hi"}]
    prompts: list[Any] = [
        text,
        "a" * 4_000_000,
        {"prompt": text, "truncate_prompt_tokens": 10},
        list(range(50)) * 10_000,
        {"messages": [{"role": "user", "content": text}]},
        {"messages": small_talk * 40_000},
        {"messages": small_talk, "chat_template_kwargs": {"x": text[:3_000_000]}},
        {"messages": [{"role": "user", "content": "Hi", "more": json.loads("[" * 50 + "]" * 50)}]},
    ]
    with one_rank.begin(prompts, sampling_params={"max_tokens": 2}) as pending:
        for _ in range(3):
            check_alive(one_rank)
        results = pending.answer()["results"]
    codes = [result.get("error", {}).get("code") for result in results]
    long = "context_length_exceeded"
    assert codes == [long, long, None, long, long, "invalid_prompt", None, None]
    assert results[2]["usage"]["prompt_tokens"] == 10
