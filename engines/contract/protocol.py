"""The messages between the gateway and a rank: one msgspec struct per message, msgpack on the wire.

Every message carries the incarnation of the rank it concerns, so that a message of a dead rank is recognised, and the
epoch of the gateway, so that nothing said in a former gateway's life matches anything of this one.
Items travel many to a message, and results are coalesced. A result's ``outputs`` are JSON bytes, encoded by the
rank and spliced by the gateway, which never parses them. So is the body of an exchange's answer (exchanges.py); one
that streams comes in chunks, many of many exchanges in one message.
"""

from enum import IntEnum, StrEnum

import msgspec

from engines.contract.exchanges import AnswerHead
from engines.contract.item_errors import ItemError

PROTOCOL_VERSION = 4


class Stage(StrEnum):
    """How far a rank is with starting."""

    SPAWNED = "spawned"  # the process runs
    IMPORTING = "importing"  # the engine's packages are being imported
    CONFIGURING = "configuring"  # the engine's arguments are being checked against the model
    LOADING = "loading"  # engine processes start, weights load, memory is profiled, graphs are captured
    WARMING_UP = "warming_up"  # the first prompt runs
    SERVING = "serving"  # ready for items


class PromptKind(IntEnum):
    """What ``RunItem.prompt`` holds, as JSON bytes."""

    TEXT = 0  # a string
    TOKEN_IDS = 1  # an array of integers
    CHAT = 2  # an array of messages
    EXCHANGE = 3  # the body of a request in OpenAI's API; its parameters are an ExchangeHead


class Outcome(IntEnum):
    """How an attempt ended, as the rank saw it."""

    OK = 0
    ERROR = 1  # `error` says why
    ABORTED = 2  # the gateway asked for it
    LOST = 3  # the engine gave it up, and nobody had asked: it has to run again


class FailureKind(StrEnum):
    """Why a rank gave up, as far as it could tell."""

    CONFIGURATION = "configuration"  # wrong settings or model: starting again would fail again
    START = "start"  # the engine did not come up
    ENGINE = "engine"  # the engine or one of its processes died while serving


class Message(msgspec.Struct, array_like=True, tag=True, kw_only=True):
    """What every message has in common."""

    incarnation: int
    epoch: int = 0  # filled in when it is sent


# ---------------------------------------------------------------- gateway -> rank


class RunItem(msgspec.Struct, array_like=True):
    """One attempt: one dispatch of one item to one rank."""

    attempt: int  # unique within the gateway's life
    kind: PromptKind
    prompt: bytes  # JSON, see PromptKind
    params: int  # index into Run.params
    seed: int | None = None
    truncate: int | None = None  # keep the last so many prompt tokens; -1: as many as fit
    return_token_ids: bool = False
    tools: bytes | None = None  # JSON array, for CHAT
    template_kwargs: bytes | None = None  # JSON object, for CHAT
    trace: str | None = None  # a W3C traceparent: where the spans of this attempt belong


class Run(Message):
    """Items to run. Equal parameters travel once: `params` are msgpack-encoded SamplingFields without seed, and the
    ExchangeHead of an exchange."""

    params: list[bytes]
    items: list[RunItem]


class Abort(Message):
    """Attempts to give up. Each still gets its result."""

    attempts: list[int]


class Taken(Message):
    """What the clients of streams have taken: a rank sends no more of one than its window allows beyond that."""

    taken: list[tuple[int, int]]  # attempt, bytes since the last such message


class Check(Message):
    """Asks whether this engine accepts these sampling parameters (msgpack-encoded SamplingFields)."""

    check: int
    params: bytes


class Count(Message):
    """Asks how large these items are, or why they would be refused. They do not run: attempts mean nothing here."""

    count: int
    params: list[bytes]  # as in Run
    items: list[RunItem]


class Scrape(Message):
    """Asks for the engine's own metrics in Prometheus' text format."""

    scrape: int


class Stop(Message):
    """Ends the rank: running attempts are given up, the engine is shut down, the process exits with 0."""


ToRank = Run | Abort | Taken | Check | Count | Scrape | Stop

# ---------------------------------------------------------------- rank -> gateway


class Hello(Message):
    """The first message of a rank's life. A gateway of another version refuses it, and can: its fields never change."""

    protocol: int
    rank: int
    pid: int


class StageReached(Message):
    """The rank has begun this stage of starting."""

    stage: Stage


class RankFacts(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """What a rank says of itself once its engine stands; the gateway checks it against what it asked for."""

    engine: str  # such as "vllm 0.32.0"
    model: str  # the path or hub name that was loaded
    is_moe: bool
    expert_parallel: bool
    data_parallel_size: int  # as the engine sees it: 1 for a replica
    tensor_parallel_size: int
    max_model_len: int  # tokens, prompt and output together
    max_num_seqs: int  # sequences that run at once
    kv_cache_tokens: int  # tokens the KV cache holds; 0 when the engine has none
    vocab_size: int
    dtype: str
    device: str  # "cuda", "cpu", or "simulated"
    max_num_batched_tokens: int = 0  # tokens of one step, at most; 0 when the engine has no such limit
    processes: dict[str, int] = {}  # process title -> pid, what the rank watches
    exchanges: list[str] = []  # paths of OpenAI's API that the model answers, of those in exchanges.py
    generates: bool = True  # a model that does not is there for exchanges alone: its warm-up is no generation
    caches_prefixes: bool = False  # whether what prompts have in common lies in the KV cache once
    kv_block_tokens: int = 1  # of which a sequence takes whole ones


class Ready(Message):
    """The warm-up has succeeded; items may come."""

    facts: RankFacts


class Result(msgspec.Struct, array_like=True):
    """How one attempt ended."""

    attempt: int
    outcome: Outcome
    outputs: bytes = b"[]"  # JSON array: index, text, token_ids?, finish_reason, stop_reason, logprobs?
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # prompt tokens found in the prefix cache
    stopped_by_length: int = 0  # outputs whose finish_reason is "length"
    prompt_logprobs: bytes | None = None  # JSON
    error: ItemError | None = None
    head: AnswerHead | None = None  # of an exchange that was answered at once: `outputs` is the answer's body


class Chunk(msgspec.Struct, array_like=True):
    """The next bytes of an exchange's streamed answer."""

    attempt: int
    body: bytes
    head: AnswerHead | None = None  # with the first


class Chunks(Message):
    """What has come of all streams since the last such message, in order. Results that follow come after it."""

    chunks: list[Chunk]


class Results(Message):
    """All attempts that ended since the last such message."""

    results: list[Result]


class Checked(Message):
    """The answer to Check. `error` is None when the engine accepts the parameters."""

    check: int
    error: ItemError | None


class ItemSize(msgspec.Struct, array_like=True, frozen=True):
    """How large an item is in tokens. `max_tokens` is what each of its sequences may generate in the context left."""

    prompt_tokens: int = 0
    max_tokens: int = 0
    error: ItemError | None = None  # why it would not run


class Counted(Message):
    """The answer to Count: a size for each item, in their order."""

    count: int
    sizes: list[ItemSize]


class Scraped(Message):
    """The answer to Scrape."""

    scrape: int
    text: bytes


class Status(Message):
    """A rank's heartbeat, from its control thread: it comes while the engine's own loop is blocked, too."""

    given: int = 0  # attempts that what may crash has been given
    prepared: int = 0  # prompts and parameters that were looked at, since the rank became ready
    awaiting: int = 0  # attempts with more of a stream than their windows take: they wait for their clients
    running: int = 0  # sequences in the engine's running batch
    waiting: int = 0  # sequences in the engine's own queue
    kv_cache_usage: float = 0.0  # 0..1
    steps: int = 0  # engine steps since the rank became ready
    step_age_s: float | None = None  # seconds since the last step; None before the first
    longest_step_s: float = 0.0  # between two steps with work, since ready
    prompt_tokens: int = 0  # totals since ready
    completion_tokens: int = 0
    preemptions: int = 0


class Failed(Message):
    """The rank gives up, and says why. Its process exits after this."""

    kind: FailureKind
    reason: str
    untouched: list[int] = []  # attempts that the engine was never given: they cannot have caused it


class Stopped(Message):
    """The answer to Stop; nothing follows it."""


FromRank = Hello | StageReached | Ready | Chunks | Results | Checked | Counted | Scraped | Status | Failed | Stopped

_encoder = msgspec.msgpack.Encoder()
_to_rank: msgspec.msgpack.Decoder[ToRank] = msgspec.msgpack.Decoder(ToRank)
_from_rank: msgspec.msgpack.Decoder[FromRank] = msgspec.msgpack.Decoder(FromRank)


def encode(message: Message, epoch: int) -> bytes:
    """The message as it goes over the socket, in this life of the gateway."""
    message.epoch = epoch
    return _encoder.encode(message)


def decode_to_rank(frame: bytes | memoryview) -> ToRank:
    """A message from the gateway. Raises msgspec.DecodeError for anything else."""
    return _to_rank.decode(frame)


def decode_from_rank(frame: bytes | memoryview) -> FromRank:
    """A message from a rank. Raises msgspec.DecodeError for anything else."""
    return _from_rank.decode(frame)
