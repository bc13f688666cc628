"""Every message on the wire and back, and what is refused there."""

from typing import get_args

import msgspec
import pytest

from engines.contract.exchanges import AnswerHead, Exchange, ExchangeHead, decode_head
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import (
    Abort,
    Check,
    Checked,
    Chunk,
    Chunks,
    Count,
    Counted,
    Failed,
    FailureKind,
    FromRank,
    Hello,
    ItemSize,
    Message,
    Outcome,
    PromptKind,
    RankFacts,
    Ready,
    Result,
    Results,
    Run,
    RunItem,
    Scrape,
    Scraped,
    Stage,
    StageReached,
    Status,
    Stop,
    Stopped,
    Taken,
    ToRank,
    decode_from_rank,
    decode_to_rank,
    encode,
)

ERROR = ItemError(ItemErrorCode.INVALID_SAMPLING_PARAMS, "top_p is 3", "sampling_params.top_p")
FACTS = RankFacts(
    engine="vllm 0.32.0",
    model="/models/a",
    is_moe=True,
    expert_parallel=True,
    data_parallel_size=2,
    tensor_parallel_size=1,
    max_model_len=4096,
    max_num_seqs=256,
    kv_cache_tokens=100_000,
    vocab_size=32_000,
    dtype="float32",
    device="cpu",
    processes={"VLLM::EngineCore_DP0": 4711},
    exchanges=[Exchange.COMPLETIONS, Exchange.TOKENIZE],
)
HEAD = ExchangeHead(Exchange.COMPLETIONS, "req-1", streams=True)
EPOCH = 4_611_686_018_427_387_903
TO_RANK: list[ToRank] = [
    Run(
        incarnation=1,
        params=[b"\x80", b"\x81\xa1n\x02", HEAD.encode()],
        items=[
            RunItem(1, PromptKind.TEXT, b'"Hello"', 0),
            RunItem(2, PromptKind.TOKEN_IDS, b"[1,2]", 1, seed=2**62, truncate=-1, return_token_ids=True),
            RunItem(3, PromptKind.CHAT, b'[{"role":"user"}]', 1, tools=b"[]", template_kwargs=b"{}"),
            RunItem(4, PromptKind.EXCHANGE, b'{"prompt":"Hello"}', 2),
        ],
    ),
    Abort(incarnation=2, attempts=[1, 2**40]),
    Taken(incarnation=2, taken=[(1, 17), (2**40, 0)]),
    Check(incarnation=3, check=1, params=b"\x80"),
    Count(incarnation=3, count=1, params=[b"\x80"], items=[RunItem(0, PromptKind.TEXT, b'"Hello"', 0)]),
    Scrape(incarnation=4, scrape=1),
    Stop(incarnation=5),
]
FROM_RANK: list[FromRank] = [
    Hello(incarnation=1, protocol=1, rank=3, pid=4711),
    *[StageReached(incarnation=1, stage=stage) for stage in Stage],
    Ready(incarnation=1, facts=FACTS),
    Chunks(incarnation=1, chunks=[Chunk(1, b"data: 1", AnswerHead(200, "text/event-stream")), Chunk(1, b"\n\n")]),
    Results(
        incarnation=1,
        results=[
            Result(1, Outcome.OK, b'[{"text":"\xc3\xa4"}]', 3, 4, 2, 1, prompt_logprobs=b"[null]"),
            Result(2, Outcome.ABORTED),
            Result(4, Outcome.OK, b"{}", head=AnswerHead(400, "application/json")),
            *[Result(3, Outcome.ERROR, error=ItemError(code, "why")) for code in ItemErrorCode],
        ],
    ),
    Checked(incarnation=1, check=1, error=ERROR),
    Checked(incarnation=1, check=1, error=None),
    Counted(incarnation=1, count=1, sizes=[ItemSize(3, 16), ItemSize(error=ERROR)]),
    Scraped(incarnation=1, scrape=1, text=b"# HELP\n"),
    Status(incarnation=1),
    Status(incarnation=1, running=3, waiting=1, kv_cache_usage=0.5, steps=7, step_age_s=0.1, prompt_tokens=9),
    *[Failed(incarnation=1, kind=kind, reason="why") for kind in FailureKind],
    Stopped(incarnation=1),
]


def name_of(message: Message) -> str:
    return type(message).__name__


@pytest.mark.parametrize("message", TO_RANK, ids=name_of)
def test_what_the_gateway_says_arrives(message: ToRank) -> None:
    assert decode_to_rank(encode(message, EPOCH)) == message
    assert decode_to_rank(memoryview(encode(message, EPOCH))) == message


@pytest.mark.parametrize("message", FROM_RANK, ids=name_of)
def test_what_a_rank_says_arrives(message: FromRank) -> None:
    assert decode_from_rank(encode(message, EPOCH)) == message


def test_the_head_of_an_exchange_arrives_as_parameters() -> None:
    assert decode_head(HEAD.encode()) == HEAD


def test_no_message_is_left_out_here() -> None:
    assert {type(message) for message in TO_RANK} == set(get_args(ToRank))
    assert {type(message) for message in FROM_RANK} == set(get_args(FromRank))


@pytest.mark.parametrize("message", TO_RANK, ids=name_of)
def test_a_gateway_is_not_told_what_ranks_are_told(message: ToRank) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_from_rank(encode(message, EPOCH))


@pytest.mark.parametrize("message", FROM_RANK, ids=name_of)
def test_a_rank_is_not_told_what_gateways_are_told(message: FromRank) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_to_rank(encode(message, EPOCH))


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"garbage",
        b"\x80",
        msgspec.msgpack.encode(["Hello"]),
        msgspec.msgpack.encode(["Hello", 1, 1, 3]),
        msgspec.msgpack.encode(["Hello", "1", 1, 3, 4711]),
        msgspec.msgpack.encode(["StageReached", 1, "resting"]),
        msgspec.msgpack.encode(["Goodbye", 1]),
        msgspec.msgpack.encode(["Results", 1, [[1, 9]]]),
        msgspec.msgpack.encode({"type": "Hello"}),
        encode(TO_RANK[0], EPOCH)[:-1],
        encode(FROM_RANK[0], EPOCH) + b"\x00",
    ],
)
def test_what_is_no_message_is_refused(frame: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_from_rank(frame)
    with pytest.raises(msgspec.DecodeError):
        decode_to_rank(frame)


def test_the_hello_of_another_version_can_be_read_and_so_refused() -> None:
    """Which is why it looks on the wire as it always did."""
    hello = Hello(incarnation=1, protocol=99, rank=3, pid=4711)
    assert encode(hello, EPOCH) == msgspec.msgpack.encode(["Hello", 99, 3, 4711, 1, EPOCH])
    assert decode_from_rank(encode(hello, EPOCH)) == hello


def test_results_cross_as_the_bytes_they_are() -> None:
    """The gateway splices outputs into its answer; they must not be parsed, nor copied into text, on the way."""
    outputs = b'[{"text": "\\ud800 is spliced as it is", "odd":1e999}]'
    decoded = decode_from_rank(encode(Results(incarnation=1, results=[Result(1, Outcome.OK, outputs)]), EPOCH))
    assert isinstance(decoded, Results)
    assert decoded.results[0].outputs == outputs


def test_what_may_succeed_later_is_retryable() -> None:
    assert {code for code in ItemErrorCode if code.retryable} == {
        ItemErrorCode.INVALID_STRUCTURED_OUTPUT,
        ItemErrorCode.RANK_LOST,
        ItemErrorCode.ENGINE_ERROR,
        ItemErrorCode.SHUTTING_DOWN,
    }
