"""From an item's prompt to vLLM's engine input: text is tokenised, messages go through the model's chat template.

Both use vLLM's own renderer, as its server does. Every refusal is an ItemError; nothing unchecked passes.
"""

from typing import Any

import msgspec

from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import PromptKind, RunItem
from engines.vllm_engine import compat

LARGE_BYTES = 16 * 1024  # of a prompt: it takes more than some milliseconds to render
MAX_MESSAGES = 4096  # many a chat template takes a time that grows with their square
BOUNDARY_TOKENS = 64  # beyond those that are kept of a text that is cut before it is tokenised
TEXT_PART_TYPES = ("text", "input_text")
# What vLLM would pass on and is no variable of the template: the service's own to say, and what tells the tokenizer to
# pad a prompt to a billion tokens, or to return something else than token ids.
OWN_TEMPLATE_ARGUMENTS = (
    *("chat_template", "tokenize", "return_dict", "conversation", "tools"),
    *("padding", "truncation", "max_length", "return_tensors", "return_assistant_tokens_mask", "tokenizer_kwargs"),
)

_text = msgspec.json.Decoder(str)
_token_ids = msgspec.json.Decoder(list[int])
_messages = msgspec.json.Decoder(list[dict[str, Any]])  # Any: a message's fields are the chat template's business
_tools = msgspec.json.Decoder(list[dict[str, Any]])
_template_kwargs = msgspec.json.Decoder(dict[str, Any])


class PromptRefused(Exception):
    """A prompt that cannot run."""

    def __init__(self, error: ItemError) -> None:
        super().__init__(error.message)
        self.error = error


class PromptRenderer:
    """Renders prompts for one engine."""

    def __init__(self, renderer: Any, tokenizer: Any, model_config: Any) -> None:  # Any: vLLM's own classes
        from vllm.renderers.params import ChatParams, TokenizeParams

        self._renderer = renderer
        self._vocab_size = model_config.get_vocab_size()
        self._max_model_len = model_config.max_model_len
        self._max_chars_per_token = tokenizer.max_chars_per_token
        self._chat_params = ChatParams
        # Neither limit nor truncation: this module does both, with messages of its own.
        self._completion = TokenizeParams(max_total_tokens=None, add_special_tokens=True)
        self._chat = TokenizeParams(max_total_tokens=None, add_special_tokens=False)

    def is_large(self, item: RunItem) -> bool:
        """Whether rendering it would hold the loop for long: do it in another thread then."""
        return len(item.prompt) + len(item.tools or b"") + len(item.template_kwargs or b"") > LARGE_BYTES

    def render(self, item: RunItem) -> tuple[Any, int]:  # Any: vLLM's EngineInput
        """The engine's input and its length in tokens. Raises PromptRefused."""
        try:
            engine_input = self._engine_input(item)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _invalid(f"{_describe(item.kind)}: {error}") from error
        except RecursionError as error:
            raise _invalid("the prompt is nested too deeply") from error
        token_ids = engine_input["prompt_token_ids"]
        if item.truncate is not None:
            token_ids = self._truncate(token_ids, item.truncate)
            engine_input["prompt_token_ids"] = token_ids
        if not token_ids:
            raise _invalid("the prompt has no tokens: give it at least one")
        if len(token_ids) >= self._max_model_len:
            raise PromptRefused(self._too_long(f"{len(token_ids)} tokens"))
        return engine_input, len(token_ids)

    def _engine_input(self, item: RunItem) -> Any:
        match item.kind:
            case PromptKind.TEXT:
                return self._rendered({"prompt": self._fitting(_text.decode(item.prompt), item.truncate)})
            case PromptKind.TOKEN_IDS:
                return self._rendered({"prompt_token_ids": self._checked(_token_ids.decode(item.prompt))})
            case PromptKind.CHAT:
                return self._rendered_chat(item)

    def _fitting(self, text: str, truncate: int | None) -> str:
        """Text that may fit: what cannot is not tokenised, which takes a second per megabyte and holds a processor."""
        keep = self._max_model_len if truncate in (None, -1) else min(truncate or 0, self._max_model_len)
        most = (keep + BOUNDARY_TOKENS) * self._max_chars_per_token
        if len(text) <= most:
            return text
        if truncate is None:
            raise PromptRefused(self._too_long(f"{len(text)} characters, more than {most} that it could be at most,"))
        return text[-most:]

    def _rendered(self, prompt: dict[str, Any]) -> Any:
        try:
            (engine_input,) = self._renderer.render_cmpl([prompt], self._completion)
        except Exception as error:
            raise PromptRefused(compat.prompt_error(error)) from error
        return engine_input

    def _rendered_chat(self, item: RunItem) -> Any:
        messages = _messages.decode(item.prompt)
        if not messages:
            raise _invalid("messages is empty: give it at least one message")
        if len(messages) > MAX_MESSAGES:
            raise _invalid(f"messages has {len(messages)} entries, at most {MAX_MESSAGES} are accepted", "messages")
        for index, message in enumerate(messages):
            _check_message(index, message)
        kwargs = _template_kwargs.decode(item.template_kwargs) if item.template_kwargs else {}
        for name in OWN_TEMPLATE_ARGUMENTS:
            if name in kwargs:
                raise _invalid(f"{name!r} is not allowed in chat_template_kwargs", "chat_template_kwargs")
        kwargs = {"add_generation_prompt": True} | kwargs
        if item.tools is not None:
            kwargs["tools"] = _tools.decode(item.tools)
        try:
            _, (engine_input,) = self._renderer.render_chat(
                [messages], self._chat_params(chat_template_kwargs=kwargs), self._chat
            )
        except Exception as error:
            raise PromptRefused(compat.prompt_error(error)) from error
        return engine_input

    def _checked(self, token_ids: list[int]) -> list[int]:
        for index, token in enumerate(token_ids):
            if not 0 <= token < self._vocab_size:
                raise _invalid(
                    f"token id {token} at position {index} is outside the vocabulary (0 to {self._vocab_size - 1})"
                )
        return token_ids

    def _truncate(self, token_ids: list[int], truncate: int) -> list[int]:
        keep = self._max_model_len - 1 if truncate == -1 else truncate
        return token_ids[-keep:] if keep else []

    def _too_long(self, size: str) -> ItemError:
        return ItemError(
            ItemErrorCode.CONTEXT_LENGTH_EXCEEDED,
            f"the prompt has {size} and the context holds {self._max_model_len}, of which at least one is "
            "for the answer: shorten the prompt, or set truncate_prompt_tokens",
        )


def _check_message(index: int, message: dict[str, Any]) -> None:
    where = f"messages[{index}]"
    if not isinstance(message.get("role"), str):
        raise _invalid(f"{where} has no role", f"{where}.role")
    content = message.get("content")
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise _invalid(f"{where}.content is neither a string nor a list of parts", f"{where}.content")
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in TEXT_PART_TYPES or not isinstance(part.get("text"), str):
            raise _invalid(
                f"{where}.content[{number}] is no text part (its type is {str(kind)[:40]!r}): only text is served",
                f"{where}.content[{number}]",
            )


def _describe(kind: PromptKind) -> str:
    return {
        PromptKind.TEXT: "the prompt is not a string",
        PromptKind.TOKEN_IDS: "the prompt is not a list of token ids",
        PromptKind.CHAT: "messages, tools or chat_template_kwargs have the wrong shape",
    }[kind]


def _invalid(message: str, param: str | None = None) -> PromptRefused:
    return PromptRefused(ItemError(ItemErrorCode.INVALID_PROMPT, message, param))
