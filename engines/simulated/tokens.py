"""/tokenize and /detokenize of the simulated engine.

A token is a piece of four bytes, and the last takes what is left, as prompts are counted. The pieces that answers are
made of have the first ids; all others share the rest, so that only texts of the simulated engine itself come back.
"""

import hashlib

import msgspec

from engines.simulated.answers import PIECES
from engines.simulated.bodies import BodyRefused, Fields, read_body
from engines.simulated.prompts import PIECE_LENGTH, VOCAB_SIZE, ChatMessage, count_text

IDS = {piece.encode(): token for token, piece in enumerate(PIECES)}


class Tokenize(msgspec.Struct):
    """What is read of a body of /tokenize: a prompt or messages."""

    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    return_token_strs: bool = False


class Detokenize(msgspec.Struct):
    """What is read of a body of /detokenize."""

    tokens: list[int]


def tokenize(fields: Fields, max_model_len: int) -> dict[str, object]:
    """The answer of /tokenize. Raises BodyRefused and msgspec's errors."""
    body = read_body(fields, Tokenize)
    if (body.prompt is None) == (body.messages is None):
        raise BodyRefused("the body has to have a 'prompt' or 'messages', and not both")
    pieces = _pieces(body.prompt) if body.prompt is not None else _chat_pieces(body.messages or [])
    answer: dict[str, object] = {"count": len(pieces), "max_model_len": max_model_len, "simulated": True}
    answer["tokens"] = [_id(piece) for piece in pieces]
    answer["token_strs"] = [piece.decode(errors="replace") for piece in pieces] if body.return_token_strs else None
    return answer


def detokenize(fields: Fields) -> dict[str, object]:
    """The answer of /detokenize. Raises BodyRefused and msgspec's errors."""
    tokens = read_body(fields, Detokenize).tokens
    for token in tokens:
        if not 0 <= token < VOCAB_SIZE:
            raise BodyRefused(f"token id {token} is outside the vocabulary (0 to {VOCAB_SIZE - 1})")
    return {"prompt": "".join(PIECES[token % len(PIECES)] for token in tokens), "simulated": True}


def _chat_pieces(messages: list[ChatMessage]) -> list[bytes]:
    """A piece for each role, as chats are counted, and those of its text."""
    return [piece for message in messages for piece in (message.role.encode(), *_pieces(message.text))]


def _pieces(text: str) -> list[bytes]:
    if not text:
        return []
    encoded, last = text.encode(errors="replace"), (count_text(text) - 1) * PIECE_LENGTH
    return [*(encoded[start : start + PIECE_LENGTH] for start in range(0, last, PIECE_LENGTH)), encoded[last:]]


def _id(piece: bytes) -> int:
    known = IDS.get(piece)
    if known is not None:
        return known
    number = int.from_bytes(hashlib.blake2b(piece, digest_size=8).digest(), "big")
    return len(PIECES) + number % (VOCAB_SIZE - len(PIECES))
