"""How long a prompt is for the simulated engine: a token is four bytes, unless the prompt comes as token ids."""

from collections.abc import Sequence
from typing import Any

import msgspec

from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import PromptKind, RunItem

VOCAB_SIZE = 65_536  # what token ids in a prompt may be; answers use the first 256
PIECE_LENGTH = 4
TO_FIT = "shorten the prompt, or set truncate_prompt_tokens"

_text = msgspec.json.Decoder(str)
_token_ids = msgspec.json.Decoder(list[int])


class Part(msgspec.Struct):
    """A part of a chat message's content."""

    type: str
    text: str


class ChatMessage(msgspec.Struct):
    """What is read of a chat message."""

    role: str
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        """All that it says."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


_messages = msgspec.json.Decoder(list[ChatMessage])


def count_prompt(item: RunItem, max_model_len: int) -> int | ItemError:
    """The prompt's length in tokens, or why it cannot run."""
    try:
        tokens = _count(item)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _invalid(f"the prompt is malformed: {error}")
    if isinstance(tokens, ItemError):
        return tokens
    if item.truncate is not None:
        tokens = min(tokens, max_model_len - 1 if item.truncate == -1 else item.truncate)
    return find_misfit(tokens, max_model_len) or tokens


def find_misfit(tokens: int, max_model_len: int, remedy: str = TO_FIT) -> ItemError | None:
    """Why a prompt of so many tokens cannot run, or None."""
    if tokens < 1:
        return _invalid("the prompt has no tokens: give it at least one")
    if tokens >= max_model_len:
        return ItemError(
            ItemErrorCode.CONTEXT_LENGTH_EXCEEDED,
            f"the prompt has {tokens} tokens and the context holds {max_model_len}, of which at least one is for the "
            f"answer: {remedy}",
        )
    return None


def count_ids(ids: Sequence[int]) -> int | ItemError:
    """How many token ids these are, or which is none."""
    if ids and not (min(ids) >= 0 and max(ids) < VOCAB_SIZE):
        beyond = next(token for token in ids if not 0 <= token < VOCAB_SIZE)
        return _invalid(f"token id {beyond} is outside the vocabulary (0 to {VOCAB_SIZE - 1})")
    return len(ids)


def count_messages(messages: Sequence[ChatMessage]) -> int:
    """The tokens of a chat: one for each message's role, and its text's."""
    return sum(1 + count_text(message.text) for message in messages)


def count_text(text: str) -> int:
    """The tokens of a text; the last takes what is left of four bytes each."""
    size = len(text) if text.isascii() else len(text.encode(errors="replace"))
    return max(1, size // PIECE_LENGTH) if size else 0


def _count(item: RunItem) -> int | ItemError:
    match item.kind:
        case PromptKind.TEXT:
            return count_text(_text.decode(item.prompt))
        case PromptKind.TOKEN_IDS:
            return count_ids(_token_ids.decode(item.prompt))
        case PromptKind.CHAT:
            return _count_chat(item)
        case PromptKind.EXCHANGE:
            return _invalid("an exchange's prompts are counted when it runs")


def _count_chat(item: RunItem) -> int:
    if item.template_kwargs is not None:
        msgspec.json.decode(item.template_kwargs, type=dict[str, Any])  # Any: the template's business
    tools = 0
    if item.tools is not None:
        msgspec.json.decode(item.tools, type=list[dict[str, Any]])
        tools = len(item.tools) // PIECE_LENGTH
    return tools + count_messages(_messages.decode(item.prompt))


def _invalid(message: str) -> ItemError:
    return ItemError(ItemErrorCode.INVALID_PROMPT, message)
