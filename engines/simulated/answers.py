"""What the simulated engine answers: text derived by a hash from the prompt, its parameters and its seed.

A token is a byte and a piece of four characters, so an answer of n tokens costs one call of a hash and one join.
"""

import hashlib
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from engines.contract.protocol import ItemError, ItemErrorCode, ItemSize, Outcome, PromptKind, Result, RunItem
from engines.contract.sampling import SamplingFields

VOCAB_SIZE = 65_536  # what token ids in a prompt may be; answers use the first 256
DEFAULT_MAX_TOKENS = 16
CACHE_SIZE = 1024
PIECE_LENGTH = 4
PIECES = [f" {head}{vowel}{tail}" for head in "bdfghjklmnprstvz" for vowel in "aeiu" for tail in "lnrs"]

UNSUPPORTED = (
    "logprobs",
    "prompt_logprobs",
    "logprob_token_ids",
    "structured_outputs",
    "logit_bias",
    "allowed_token_ids",
    "bad_words",
    "repetition_detection",
    "thinking_token_budget",
    "watermarking",
)

_text = msgspec.json.Decoder(str)
_token_ids = msgspec.json.Decoder(list[int])
_encode = msgspec.json.Encoder().encode


class Part(msgspec.Struct):
    """A part of a chat message's content."""

    type: str
    text: str


class ChatMessage(msgspec.Struct):
    """What is read of a chat message."""

    role: str
    content: str | list[Part] | None = None


_messages = msgspec.json.Decoder(list[ChatMessage])


class Output(msgspec.Struct):
    """One generated sequence, as a user reads it. It says in every answer what it is."""

    index: int
    text: str
    finish_reason: str
    stop_reason: str | int | None
    token_ids: list[int] | UnsetType = UNSET
    simulated: bool = True


class Plan(msgspec.Struct, frozen=True):
    """Sampling parameters, checked and ready for use."""

    salt: bytes
    n: int
    max_tokens: int
    min_tokens: int
    stops: tuple[str, ...]
    stop_tokens: frozenset[int]
    include_stop: bool


class Planner:
    """Turns encoded sampling parameters into plans. Equal encodings are checked once."""

    def __init__(self) -> None:
        self._plans: dict[bytes, Plan | ItemError] = {}

    def plan(self, params: bytes) -> Plan | ItemError:
        """The plan for these msgpack-encoded SamplingFields, or why they are refused."""
        found = self._plans.get(params)
        if found is None:
            found = self._plans[params] = _make_plan(params)
            if len(self._plans) > CACHE_SIZE:
                self._plans.pop(next(iter(self._plans)))
        return found


def count_prompt(item: RunItem, max_model_len: int) -> int | ItemError:
    """The prompt's length in tokens (a token is four bytes, unless it comes as ids), or why it cannot run."""
    try:
        tokens = _count(item)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return ItemError(ItemErrorCode.INVALID_PROMPT, f"the prompt is malformed: {error}")
    if isinstance(tokens, ItemError):
        return tokens
    if item.truncate is not None:
        tokens = min(tokens, max_model_len - 1 if item.truncate == -1 else item.truncate)
    if tokens < 1:
        return ItemError(ItemErrorCode.INVALID_PROMPT, "the prompt has no tokens: give it at least one")
    if tokens >= max_model_len:
        return ItemError(
            ItemErrorCode.CONTEXT_LENGTH_EXCEEDED,
            f"the prompt has {tokens} tokens and the context holds {max_model_len}, of which at least one is for the "
            "answer: shorten the prompt, or set truncate_prompt_tokens",
        )
    return tokens


def size_of(item: RunItem, plan: Plan | ItemError, max_model_len: int) -> ItemSize:
    """The item's tokens, or why it would be refused."""
    if isinstance(plan, ItemError):
        return ItemSize(error=plan)
    tokens = count_prompt(item, max_model_len)
    if isinstance(tokens, ItemError):
        return ItemSize(error=tokens)
    return ItemSize(tokens, min(plan.max_tokens, max_model_len - tokens))


def answer(item: RunItem, plan: Plan, prompt_tokens: int, max_model_len: int) -> tuple[Result, int]:
    """The result of this item, and how many steps its longest sequence takes."""
    limit = min(plan.max_tokens, max_model_len - prompt_tokens)
    seed = b"" if item.seed is None else str(item.seed).encode()
    key = hashlib.blake2b(b"\0".join((plan.salt, seed, item.tools or b"", item.prompt)), digest_size=16).digest()
    sequences = [_sequence(plan, key, index, limit, item.return_token_ids) for index in range(plan.n)]
    lengths = [length for _, length in sequences]
    result = Result(
        item.attempt,
        Outcome.OK,
        outputs=_encode([output for output, _ in sequences]),
        prompt_tokens=prompt_tokens,
        completion_tokens=sum(lengths),
        stopped_by_length=sum(output.finish_reason == "length" for output, _ in sequences),
    )
    return result, max(lengths)


# ---------------------------------------------------------------- sampling parameters


def _make_plan(params: bytes) -> Plan | ItemError:
    try:
        fields = msgspec.msgpack.decode(params, type=SamplingFields)
    except msgspec.DecodeError as error:
        return _refuse(None, str(error))
    refusal = _unsupported(fields)
    if refusal is not None:
        return refusal
    stop = fields.stop or []
    plan = Plan(
        salt=params,
        n=fields.n or 1,
        max_tokens=fields.max_tokens or DEFAULT_MAX_TOKENS,
        min_tokens=fields.min_tokens or 0,
        stops=(stop,) if isinstance(stop, str) else tuple(stop),
        stop_tokens=frozenset(fields.stop_token_ids or ()),
        include_stop=bool(fields.include_stop_str_in_output),
    )
    if "" in plan.stops:
        return _refuse("stop", "stop holds an empty string: leave it out")
    if plan.min_tokens > plan.max_tokens:
        return _refuse("min_tokens", f"min_tokens is {plan.min_tokens}, above max_tokens, {plan.max_tokens}")
    return plan


def _unsupported(fields: SamplingFields) -> ItemError | None:
    for name in UNSUPPORTED:
        if getattr(fields, name) is not UNSET:
            return _refuse(name, f"the simulated engine does not support {name!r}: leave it out")
    return None


def _refuse(field: str | None, message: str) -> ItemError:
    param = "sampling_params" if field is None else f"sampling_params.{field}"
    return ItemError(ItemErrorCode.INVALID_SAMPLING_PARAMS, message, param)


# ---------------------------------------------------------------- prompts


def _count(item: RunItem) -> int | ItemError:
    match item.kind:
        case PromptKind.TEXT:
            return _tokens_of(_text.decode(item.prompt))
        case PromptKind.TOKEN_IDS:
            ids = _token_ids.decode(item.prompt)
            if ids and not (min(ids) >= 0 and max(ids) < VOCAB_SIZE):
                beyond = next(token for token in ids if not 0 <= token < VOCAB_SIZE)
                message = f"token id {beyond} is outside the vocabulary (0 to {VOCAB_SIZE - 1})"
                return ItemError(ItemErrorCode.INVALID_PROMPT, message)
            return len(ids)
        case PromptKind.CHAT:
            return _count_chat(item)


def _count_chat(item: RunItem) -> int:
    if item.template_kwargs is not None:
        msgspec.json.decode(item.template_kwargs, type=dict[str, Any])  # Any: the template's business
    tools = 0
    if item.tools is not None:
        msgspec.json.decode(item.tools, type=list[dict[str, Any]])
        tools = len(item.tools) // PIECE_LENGTH
    return tools + sum(1 + _tokens_of(_content(message)) for message in _messages.decode(item.prompt))


def _content(message: ChatMessage) -> str:
    if isinstance(message.content, list):
        return "".join(part.text for part in message.content)
    return message.content or ""


def _tokens_of(text: str) -> int:
    size = len(text) if text.isascii() else len(text.encode(errors="replace"))
    return max(1, size // PIECE_LENGTH) if size else 0


# ---------------------------------------------------------------- sequences


def _sequence(plan: Plan, key: bytes, index: int, limit: int, with_ids: bool) -> tuple[Output, int]:
    tokens = hashlib.shake_128(key + index.to_bytes(4, "big")).digest(limit)
    text = "".join(map(PIECES.__getitem__, tokens))
    length, shown, stop_reason = limit, len(text), None
    if plan.stops or plan.stop_tokens:
        length, shown, stop_reason = _cut(plan, tokens, text)
    output = Output(
        index=index,
        text=text[:shown],
        finish_reason="length" if stop_reason is None else "stop",
        stop_reason=stop_reason,
        token_ids=list(tokens[:length]) if with_ids else UNSET,
    )
    return output, length


def _cut(plan: Plan, tokens: bytes, text: str) -> tuple[int, int, str | int | None]:
    """Tokens generated, characters shown and the reason, for the stop that comes first; a string's end decides."""
    ends: list[tuple[int, int, str | int | None]] = [(len(tokens), len(text), None)]
    for stop in plan.stops:
        start = text.find(stop, plan.min_tokens * PIECE_LENGTH)
        if start >= 0:
            end = start + len(stop)
            ends.append((-(-end // PIECE_LENGTH), end if plan.include_stop else start, stop))
    for position, token in enumerate(tokens[plan.min_tokens :] if plan.stop_tokens else b"", plan.min_tokens):
        if token in plan.stop_tokens:
            end = (position + 1) * PIECE_LENGTH
            ends.append((position + 1, end if plan.include_stop else end - PIECE_LENGTH, token))
            break
    # A stop on the very last token counts as a stop, as in vLLM.
    return min(ends, key=lambda end: (end[0], end[2] is None))
