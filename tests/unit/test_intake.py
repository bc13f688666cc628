"""From a request's prompts to items: every kind, and every refusal beside good neighbours."""

import asyncio
from typing import Any

import msgspec
import pytest
from batch_bench import make_run

from app.batches.intake import Intake
from app.batches.request import DEFAULT_PRIORITY, BatchRequest, bytes_of
from app.batches.results_in_memory import ResultsInMemory
from app.batches.run import BatchRun
from app.batches.sampling import SamplingResolver
from app.batches.seeds import derive_seed
from app.batches.splitting import split
from app.batches.turnstile import Turnstile
from app.dispatch.item import Item
from app.settings.declaration import Settings
from engines.contract.protocol import PromptKind

Run = BatchRun[ResultsInMemory]
MESSAGES = '[{"role":"user","content":"Hi"}]'


def take_in(
    *prompts: str | bytes, batch: dict[str, Any] | None = None, max_model_len: int | None = None, **settings: Any
) -> Run:
    """The batch of these prompts, given as JSON."""
    raw = [prompt.encode() if isinstance(prompt, str) else prompt for prompt in prompts]
    fields = batch or {}
    params = msgspec.Raw(msgspec.json.encode(fields.pop("sampling_params", None)))
    request = BatchRequest(prompts=msgspec.Raw(b"[]"), sampling_params=params, **fields)
    made = Settings(**settings)
    resolver = SamplingResolver(made, bytes_of(request.sampling_params))

    run = make_run(len(raw), priority=DEFAULT_PRIORITY if request.priority is None else request.priority)

    async def build() -> None:
        array = memoryview(b"[" + b",".join(raw) + b"]")
        entries = await split(array, len(raw), made.max_prompt_bytes, Turnstile())
        await Intake(request, resolver, made, run, max_model_len).take(enumerate(entries), Turnstile())

    asyncio.run(build())
    return run


def item(prompt: str, **more: Any) -> Item:
    (found,) = take_in(prompt, **more).items
    return found


def result(batch: Run, index: int) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(batch.sink.read(index))
    return decoded


# ---------------------------------------------------------------- what is accepted


@pytest.mark.parametrize(
    ("prompt", "kind", "content"),
    [
        ('"Hello"', PromptKind.TEXT, '"Hello"'),
        ("[1, 2,3]", PromptKind.TOKEN_IDS, "[1, 2,3]"),
        ('{"prompt": "Hello"}', PromptKind.TEXT, '"Hello"'),
        ('{"prompt": [1,2]}', PromptKind.TOKEN_IDS, "[1,2]"),
        ('{"messages": [{"role":"user"}]}', PromptKind.CHAT, '[{"role":"user"}]'),
        ('{"prompt": "Hello", "messages": null, "custom_id": null, "metadata": null}', PromptKind.TEXT, '"Hello"'),
        ('{"prompt": null, "messages": [{}], "tools": null}', PromptKind.CHAT, "[{}]"),
        ('{"prompt": "a", "tools": null, "chat_template_kwargs": null}', PromptKind.TEXT, '"a"'),
        ('"été \\u00e9"', PromptKind.TEXT, '"été \\u00e9"'),
    ],
)
def test_every_kind_of_prompt_reaches_the_rank_as_it_came(prompt: str, kind: PromptKind, content: str) -> None:
    found = item(prompt)
    assert (found.kind, found.prompt.decode()) == (kind, content)


def test_what_goes_with_a_prompt_goes_with_the_item() -> None:
    tools, kwargs = '[{"type":"function"}]', '{"enable_thinking":false}'
    chat = f'{{"messages":{MESSAGES},"tools":{tools},"chat_template_kwargs":{kwargs},"truncate_prompt_tokens":-1}}'
    found = item(chat, batch={"return_token_ids": True, "sampling_params": {"n": 3, "max_tokens": 10}})
    assert (found.tools, found.template_kwargs) == (tools.encode(), kwargs.encode())
    assert (found.truncate, found.return_token_ids, found.sequences) == (-1, True, 3)


def test_a_batch_without_a_priority_has_the_default() -> None:
    assert take_in('"a"').flow.priority == 0
    assert take_in('"a"', batch={"priority": None}).flow.priority == 0
    assert take_in('"a"', batch={"priority": -7}).flow.priority == -7


def test_the_cost_of_an_item_is_its_prompt_and_all_it_may_generate() -> None:
    assert item('"%s"' % ("x" * 398), batch={"sampling_params": {"max_tokens": 10, "n": 2}}).cost == 101 + 20
    assert item("[5,6,7]", batch={"sampling_params": {"max_tokens": 10}}).cost == 3 + 10
    assert item('{"prompt":"x","sampling_params":{"max_tokens":7}}').cost == 1 + 7
    assert item('"x"', default_max_tokens=100).cost == 101


@pytest.mark.parametrize(
    ("prompt", "cost"),
    [
        ("[1,2,3]", 3 + 97 * 2),
        ('"%s"' % ("x" * 38), 11 + 89 * 2),
        ('{"prompt":"x","sampling_params":{"max_tokens":5}}', 1 + 5 * 2),
        ('{"prompt":"x","sampling_params":{"n":1}}', 1 + 99),
        ('"%s"' % ("x" * 4000), 99 + 2),  # too long by the estimate, which need not be right
        ('{"prompt":"%s","truncate_prompt_tokens":10}' % ("x" * 4000), 10 + 90 * 2),
        ('{"prompt":"%s","truncate_prompt_tokens":-1}' % ("x" * 4000), 99 + 2),
        ('{"prompt":[1,2],"truncate_prompt_tokens":2147483647}', 2 + 98 * 2),
    ],
)
def test_an_item_costs_no_more_than_the_context_holds(prompt: str, cost: int) -> None:
    params = {"max_tokens": 2**31 - 1, "n": 2}
    found = item(prompt, batch={"sampling_params": params}, max_model_len=100)
    assert found.cost == cost


def test_items_stand_in_the_order_of_their_prompts() -> None:
    batch = take_in(*(f'"{number}"' for number in range(1500)))
    assert [found.index for found in batch.items] == list(range(1500))
    assert batch.total == 1500 and not batch.done.is_set()


# ---------------------------------------------------------------- seeds


def test_a_batchs_seed_gives_each_item_one_of_its_own() -> None:
    prompts = ('"a"', '{"prompt":"a","custom_id":"x"}', '{"prompt":"a","sampling_params":{"n":2}}')
    batch = take_in(*prompts, batch={"sampling_params": {"seed": 42}})
    assert [found.seed for found in batch.items] == [
        derive_seed(42, None, 0),
        derive_seed(42, "x", 1),
        derive_seed(42, None, 2),
    ]


def test_an_items_own_seed_is_used_as_it_is() -> None:
    own = '{"prompt":"a","sampling_params":{"seed":0}}'
    assert item(own, batch={"sampling_params": {"seed": 42}}).seed == 0
    assert item(own).seed == 0
    assert item('"a"').seed is None


def test_minus_one_is_no_seed() -> None:
    assert item('"a"', batch={"sampling_params": {"seed": -1}}).seed is None
    assert item('{"prompt":"a","sampling_params":{"seed":-1}}', batch={"sampling_params": {"seed": 42}}).seed is None


# ---------------------------------------------------------------- refusals

ANY_KIND = "must be a string, a list of token ids, or an object with prompt or messages"
REFUSALS: list[tuple[str | bytes, str, str]] = [
    # prompt, param after prompts[1], message
    ("null", "", f"prompts[1] {ANY_KIND}"),
    ("5", "", f"prompts[1] {ANY_KIND}"),
    ("true", "", f"prompts[1] {ANY_KIND}"),
    ("{}", "", "prompts[1] has neither prompt nor messages: give it one of them"),
    ('{"prompt":null}', "", "prompts[1] has neither prompt nor messages: give it one of them"),
    ('{"prompt":"a","messages":[]}', "", "prompts[1] has both prompt and messages: give it one of them"),
    ('{"prompt":5}', ".prompt", f"prompts[1].prompt {ANY_KIND}"),
    ('{"messages":"Hi"}', ".messages", "prompts[1].messages must be a list of messages"),
    ('{"messages":{}}', ".messages", "prompts[1].messages must be a list of messages"),
    ('{"prompt":"a","tools":[]}', "", "has tools or chat_template_kwargs: they go with messages, not with prompt"),
    ('{"prompt":"a","chat_template_kwargs":{}}', "", "they go with messages, not with prompt"),
    (
        '{"prompt":"a","max_tokens":5}',
        ".max_tokens",
        "'max_tokens' in prompts[1]: max_tokens belongs in sampling_params",
    ),
    ('{"prompt":"a","custom_di":"x"}', ".custom_di", "in prompts[1]: did you mean 'custom_id'?"),
    ('{"text":"a"}', ".text", "unknown field 'text' in prompts[1]"),
    ('{"prompt":"a","custom_id":""}', ".custom_id", "prompts[1].custom_id: expected str of length >= 1"),
    ('{"prompt":"a","custom_id":"%s"}' % ("x" * 513), ".custom_id", "expected str of length <= 512"),
    ('{"prompt":"a","custom_id":5}', ".custom_id", "prompts[1].custom_id: expected str | null, got int"),
    ('{"prompt":"a","truncate_prompt_tokens":-2}', ".truncate_prompt_tokens", "expected int >= -1"),
    ('{"prompt":"a","truncate_prompt_tokens":1.5}', ".truncate_prompt_tokens", "expected int | null, got float"),
    (b'"\xff"', "", "prompts[1] is not valid UTF-8: invalid start byte"),
    (b'{"prompt":"\xff"}', "", "prompts[1] is not valid UTF-8"),
    (b'{"prompt":"a","metadata":"\xc3"}', "", "prompts[1] is not valid UTF-8"),
    (b'{"messages":[{"role":"\xff"}]}', "", "prompts[1] is not valid UTF-8"),
]


@pytest.mark.parametrize(("prompt", "place", "message"), REFUSALS)
def test_a_bad_prompt_is_refused_and_its_neighbours_run(prompt: str | bytes, place: str, message: str) -> None:
    batch = take_in('"before"', prompt, '"after"')
    assert [found.index for found in batch.items] == [0, 2]
    refused = result(batch, 1)
    assert (refused["index"], refused["status"], refused["outputs"]) == (1, "error", [])
    assert (refused["rank"], refused["attempts"]) == (None, 0)
    assert refused["error"]["code"] == "invalid_prompt"
    assert refused["error"]["param"] == f"prompts[1]{place}"
    assert message in refused["error"]["message"]
    assert refused["error"]["retryable"] is False


def test_bad_parameters_of_an_item_are_its_own_error() -> None:
    batch = take_in('"a"', '{"prompt":"a","sampling_params":{"top_p":"x"}}', '{"prompt":"a","sampling_params":[]}')
    assert [found.index for found in batch.items] == [0]
    for index, place in ((1, ".top_p"), (2, "")):
        error = result(batch, index)["error"]
        assert (error["code"], error["param"]) == (
            "invalid_sampling_params",
            f"prompts[{index}].sampling_params{place}",
        )


def test_a_prompt_may_not_be_larger_than_the_limit_with_all_that_belongs_to_it() -> None:
    assert item('"12345678"', max_prompt_bytes=10)
    for prompt in (
        '"123456789"',
        '{"messages":[1,2],"tools":[1,2,3]}',
        '{"messages":[1,2],"chat_template_kwargs":{"a":1}}',
    ):
        error = result(take_in('"a"', prompt, max_prompt_bytes=10), 1)["error"]
        assert error["param"] == "prompts[1]"
        assert "bytes of prompt, at most 10 are accepted (--max-prompt-bytes)" in error["message"]


def test_the_first_of_equal_custom_ids_runs() -> None:
    batch = take_in(
        '{"prompt":"a","custom_id":"x"}', '{"prompt":"b","custom_id":"x"}', '{"prompt":"c","custom_id":"y"}'
    )
    assert [found.index for found in batch.items] == [0, 2]
    refused = result(batch, 1)
    assert refused["custom_id"] == "x"
    assert (refused["error"]["code"], refused["error"]["param"]) == ("duplicate_custom_id", "prompts[1].custom_id")


def test_a_refused_prompt_does_not_use_up_its_custom_id() -> None:
    batch = take_in('{"custom_id":"x"}', '{"prompt":"b","custom_id":"x"}')
    assert [found.index for found in batch.items] == [1]


def test_a_refused_prompt_hands_back_its_custom_id_and_metadata() -> None:
    batch = take_in('{"custom_id":"x","metadata":{"row":7}}', '{"prompt":"a","custom_id":"y","colour":"red"}')
    assert (result(batch, 0)["custom_id"], result(batch, 0)["metadata"]) == ("x", {"row": 7})
    assert result(batch, 1)["custom_id"] == "y"


@pytest.mark.parametrize(
    ("prompt", "handed_back"),
    [
        ("5", b"5"),
        ("null", b"null"),
        ('{"prompt" : "a", "colour":"red"}', b'"a"'),
        ('{"messages":[ {} ], "prompt":null, "colour":"red"}', b"[ {} ]"),
        ('{"prompt":"a","messages":[{}]}', b'"a"'),
        ('{"messages":"Hi"}', b'"Hi"'),
        ('{"prompt":"a","sampling_params":{"top_p":"x"}}', b'"a"'),
        ("{}", b"null"),
        (b'"\xff"', b"null"),
        (b'{"prompt":"\xff","custom_id":"x"}', b"null"),
        (b'{"prompt":"a","metadata":"\xff"}', b'"a"'),
    ],
)
def test_a_refused_prompt_is_handed_back_if_the_batch_asks_for_it(prompt: str | bytes, handed_back: bytes) -> None:
    found = take_in(prompt, batch={"return_prompt": True}).sink.read(0)
    assert msgspec.json.decode(found)["status"] == "error"
    assert b'"prompt":%s,"status"' % handed_back in found
    assert b'"prompt":' not in take_in(prompt).sink.read(0)


def test_a_batch_of_nothing_but_bad_prompts_is_done_at_once() -> None:
    batch = take_in("5", "{}")
    assert batch.done.is_set()
    assert batch.counts == {"ok": 0, "error": 2, "cancelled": 0, "timeout": 0}
