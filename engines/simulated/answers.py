"""What the simulated engine answers: text derived by a hash from the prompt, its parameters and its seed.

A token is a byte and a piece of four characters, so an answer of n tokens costs one call of a hash and one join.
"""

import hashlib

import msgspec
from msgspec import UNSET, UnsetType

from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import ItemSize, Outcome, Result, RunItem
from engines.contract.sampling import SamplingFields
from engines.simulated.prompts import PIECE_LENGTH, count_prompt

DEFAULT_MAX_TOKENS = 16
CACHE_SIZE = 1024
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

_encode = msgspec.json.Encoder().encode


class Output(msgspec.Struct):
    """One generated sequence, as a user reads it. It says in every answer what it is."""

    index: int
    text: str
    finish_reason: str
    stop_reason: str | int | None
    token_ids: list[int] | UnsetType = UNSET
    simulated: bool = True


class Generated(msgspec.Struct):
    """A sequence, and how many tokens it took."""

    output: Output
    tokens: int


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
    key = hash_of(plan.salt, seed, item.tools or b"", item.prompt)
    sequences = generate(plan, key, limit, item.return_token_ids)
    lengths = [sequence.tokens for sequence in sequences]
    result = Result(
        item.attempt,
        Outcome.OK,
        outputs=_encode([sequence.output for sequence in sequences]),
        prompt_tokens=prompt_tokens,
        completion_tokens=sum(lengths),
        stopped_by_length=count_cut_off(sequences),
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


# ---------------------------------------------------------------- sequences


def hash_of(*parts: bytes) -> bytes:
    """What everything that is made up for these parts comes from."""
    return hashlib.blake2b(b"\0".join(parts), digest_size=16).digest()


def generate(plan: Plan, key: bytes, limit: int, with_ids: bool = False) -> list[Generated]:
    """The plan's `n` sequences, of at most `limit` tokens each."""
    return [_sequence(plan, key, index, limit, with_ids) for index in range(plan.n)]


def count_cut_off(sequences: list[Generated]) -> int:
    """How many would have gone on."""
    return sum(sequence.output.finish_reason == "length" for sequence in sequences)


def _sequence(plan: Plan, key: bytes, index: int, limit: int, with_ids: bool) -> Generated:
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
    return Generated(output, length)


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
