"""From the JSON of a request's prompts to a batch's items: each prompt becomes one, or a result that says why not.

One bad prompt never fails its neighbours. A prompt's own JSON is not parsed further than its kind: the rank does
that, strictly.
"""

import contextlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeAlias

import msgspec

from app.batches.lines import refusal_of
from app.batches.record import NO_LABEL, Label
from app.batches.request import BatchRequest, CustomId, PromptObject, bytes_of
from app.batches.run import BatchRun
from app.batches.sampling import ParamsRefused, SamplingResolver
from app.batches.seeds import derive_seed
from app.batches.sink import ResultSink
from app.batches.turnstile import Turnstile
from app.dispatch.item import Item
from app.settings.declaration import Settings
from app.validation import DECODE_ERRORS, Complaint, complaint
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import PromptKind
from engines.contract.sampling import SamplingFields

NULL = b"null"  # as JSON
BYTES_PER_TOKEN = 4  # the usual estimate for text: the gateway does not tokenise
IsDuplicate: TypeAlias = Callable[[int, str], bool]  # whether an item's custom_id stands earlier in its batch
_decode_prompt = msgspec.json.Decoder(PromptObject).decode
_PROMPT_FIELDS = PromptObject.__struct_fields__


class _Label(msgspec.Struct):
    """What is read of a prompt object that is wrong elsewhere, so that its result can be told apart."""

    custom_id: msgspec.Raw = msgspec.Raw(NULL)
    metadata: msgspec.Raw = msgspec.Raw(NULL)
    prompt: msgspec.Raw = msgspec.Raw(NULL)
    messages: msgspec.Raw = msgspec.Raw(NULL)


_decode_label = msgspec.json.Decoder(_Label).decode
_decode_custom_id = msgspec.json.Decoder(CustomId | None).decode


class _Refused(Exception):
    def __init__(self, code: ItemErrorCode, found: Complaint) -> None:
        super().__init__(found.message)
        self.error = ItemError(code, found.message, found.param)


class Intake:
    """Fills one batch, all at once or window by window.

    It remembers the custom_ids that it has seen, unless `is_duplicate` knows them: there may be millions.
    """

    def __init__(
        self,
        request: BatchRequest,
        resolver: SamplingResolver,
        settings: Settings,
        run: BatchRun[ResultSink],
        max_model_len: int | None = None,
        is_duplicate: IsDuplicate | None = None,
        place_of: Callable[[int], str] = "prompts[{}]".format,
    ) -> None:
        self._returns_prompts = bool(request.return_prompt)
        self._returns_token_ids = bool(request.return_token_ids)
        self._resolver = resolver
        self._settings = settings
        self._context = max_model_len or sys.maxsize  # tokens, of prompt and output together
        self._is_duplicate = is_duplicate or _Seen().is_duplicate
        self._place_of = place_of  # where a prompt stands in what the client sent
        self._run = run

    async def take(
        self, prompts: Iterable[tuple[int, bytes]], turnstile: Turnstile, max_wire_bytes: int | None = None
    ) -> list[Item]:
        """The items of prompts, given as index and JSON in order; those that are refused have their results.

        With `max_wire_bytes` it stops when these items' own sampling parameters have as many: the run says how far it
        came. Without, too many raise TooLarge. What earlier prompts had of their own is forgotten.
        """
        self._resolver.forget_items()
        most_bytes = self._resolver.wire_bytes + min(max_wire_bytes or sys.maxsize, self._settings.max_body_bytes // 2)
        items = []
        for index, prompt in prompts:
            self._run.take(index)
            item = self._item_or_refusal(index, prompt)
            if item is not None:
                items.append(item)
            if max_wire_bytes is not None and self._resolver.wire_bytes >= most_bytes:
                break
            await turnstile.pause_when_over()
        return items

    def _item_or_refusal(self, index: int, raw: bytes) -> Item | None:
        refusal = refusal_of(raw)
        if refusal is not None:
            self._describe(index, NO_LABEL, None)
            self._run.refuse(index, refusal)
            return None
        try:
            item = self._item_of_object(index, raw) if raw[:1] == b"{" else self._bare_item(index, raw)
        except _Refused as refused:
            self._run.refuse(index, refused.error)
            return None
        self._run.add(item)
        return item

    def _bare_item(self, index: int, raw: bytes) -> Item:
        place = self._place_of(index)
        try:
            _check_encoding(raw)
        except UnicodeDecodeError as error:
            self._describe(index, NO_LABEL, None)
            raise _Refused(ItemErrorCode.INVALID_PROMPT, complaint(error, place)) from error
        if self._returns_prompts:
            self._describe(index, NO_LABEL, raw)
        return self._item(index, self._kind(raw, place), raw, None, PromptObject())

    def _item_of_object(self, index: int, raw: bytes) -> Item:
        place = self._place_of(index)
        try:
            _check_encoding(raw)
            entry = _decode_prompt(raw)
        except DECODE_ERRORS as error:
            self._describe(index, *_label_of(raw))
            raise _Refused(ItemErrorCode.INVALID_PROMPT, _with_hint(complaint(error, place, _PROMPT_FIELDS))) from error
        prompt, messages = bytes_of(entry.prompt), bytes_of(entry.messages)
        self._describe(index, Label(entry.custom_id, bytes_of(entry.metadata)), messages if prompt is None else prompt)
        if (prompt is None) == (messages is None):
            found = "both prompt and messages" if prompt is not None else "neither prompt nor messages"
            raise _Refused(ItemErrorCode.INVALID_PROMPT, Complaint(place, f"{place} has {found}: give it one of them"))
        own = bytes_of(entry.sampling_params)
        if prompt is not None:
            return self._item(index, self._kind(prompt, f"{place}.prompt"), prompt, own, entry)
        if messages is not None and messages[:1] != b"[":
            raise _invalid(f"{place}.messages", "must be a list of messages")
        return self._item(index, PromptKind.CHAT, messages or b"[]", own, entry)

    def _describe(self, index: int, label: Label, prompt: bytes | None) -> None:
        """What the result will hand back. `prompt` is None where there is none that can be."""
        if self._returns_prompts:
            label = replace(label, prompt=prompt or NULL)
        if label != NO_LABEL:
            self._run.record.labels[index] = label

    def _kind(self, raw: bytes, place: str) -> PromptKind:
        if raw[:1] == b'"':
            return PromptKind.TEXT
        if raw[:1] == b"[":
            return PromptKind.TOKEN_IDS
        raise _invalid(place, "must be a string, a list of token ids, or an object with prompt or messages")

    def _item(self, index: int, kind: PromptKind, prompt: bytes, own: bytes | None, entry: PromptObject) -> Item:
        place = self._place_of(index)
        tools, template_kwargs = bytes_of(entry.tools), bytes_of(entry.chat_template_kwargs)
        size = len(prompt) + len(tools or b"") + len(template_kwargs or b"")
        limit = self._settings.max_prompt_bytes
        if size > limit:
            raise _invalid(place, f"has {size} bytes of prompt, at most {limit} are accepted (--max-prompt-bytes)")
        if kind is not PromptKind.CHAT and (tools or template_kwargs):
            raise _invalid(place, "has tools or chat_template_kwargs: they go with messages, not with prompt")
        try:
            params = self._resolver.of_item(own, place)
        except ParamsRefused as refused:
            raise _Refused(ItemErrorCode.INVALID_SAMPLING_PARAMS, refused.complaint) from refused
        if entry.custom_id is not None:
            self._check_unique(index, entry.custom_id, place)
        seed = params.seed
        batch_seed = self._resolver.batch_wide.seed
        if not params.seed_is_own and batch_seed is not None:
            seed = derive_seed(batch_seed, entry.custom_id, index)
        prompt_tokens = self._tokens_of(kind, prompt, size, entry.truncate_prompt_tokens)
        return Item(
            self._run,
            self._run.flow,
            index,
            kind,
            prompt,
            params.wire,
            prompt_tokens=prompt_tokens,
            max_tokens=min(params.max_tokens, self._context - prompt_tokens),
            sequences=params.n,
            seed=seed,
            truncate=entry.truncate_prompt_tokens,
            return_token_ids=self._returns_token_ids,
            tools=tools,
            template_kwargs=template_kwargs,
        )

    def _tokens_of(self, kind: PromptKind, prompt: bytes, size: int, truncate: int | None) -> int:
        """A prompt's tokens, estimated: no more than are kept of it, nor than leave one of the context to answer."""
        tokens = prompt.count(b",") + 1 if kind is PromptKind.TOKEN_IDS else size // BYTES_PER_TOKEN + 1
        if truncate is not None and truncate >= 0:
            tokens = min(tokens, truncate)
        return min(tokens, self._context - 1)

    def _check_unique(self, index: int, custom_id: str, place: str) -> None:
        if self._is_duplicate(index, custom_id):
            raise _Refused(ItemErrorCode.DUPLICATE_CUSTOM_ID, duplicate(custom_id, place))


def duplicate(custom_id: str, place: str) -> Complaint:
    """What is wrong with an item whose custom_id another one has."""
    return Complaint(
        f"{place}.custom_id",
        f"custom_id {custom_id!r} stands earlier in this batch already, and that item runs: give each item an id of "
        "its own",
    )


class _Seen:
    """The custom_ids of the items so far that run."""

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def is_duplicate(self, index: int, custom_id: str) -> bool:
        if custom_id in self._ids:
            return True
        self._ids.add(custom_id)
        return False


def label_of(raw: bytes, *, returns_prompts: bool) -> Label:
    """What the result of a prompt, given as JSON, hands back of it, as far as that is right: for one never taken in."""
    if refusal_of(raw) is not None:
        label, prompt = NO_LABEL, None
    else:
        label, prompt = _label_of(raw) if raw[:1] == b"{" else (NO_LABEL, _if_encoded(msgspec.Raw(raw)))
    return replace(label, prompt=prompt or NULL) if returns_prompts else label


def _check_encoding(raw: bytes) -> None:
    """Raises UnicodeDecodeError. What is kept as raw JSON was skipped unread, and some of it goes into the answer."""
    if not raw.isascii():
        raw.decode()


def _label_of(raw: bytes) -> tuple[Label, bytes | None]:
    """The custom_id, the metadata and the prompt of a prompt object, as far as they are right themselves."""
    custom_id = metadata = prompt = None
    with contextlib.suppress(*DECODE_ERRORS):
        label = _decode_label(raw)
        with contextlib.suppress(*DECODE_ERRORS):
            custom_id = _decode_custom_id(label.custom_id)
        metadata = _if_encoded(label.metadata)
        prompt = _if_encoded(label.prompt) or _if_encoded(label.messages)
    return Label(custom_id, metadata), prompt


def _if_encoded(raw: msgspec.Raw) -> bytes | None:
    """The JSON of an optional field, unless it is not valid UTF-8."""
    found = bytes_of(raw)
    with contextlib.suppress(UnicodeDecodeError):
        _check_encoding(found or b"")
        return found
    return None


def _invalid(place: str, what: str) -> _Refused:
    return _Refused(ItemErrorCode.INVALID_PROMPT, Complaint(place, f"{place} {what}"))


def _with_hint(found: Complaint) -> Complaint:
    """A sampling parameter beside the prompt belongs in its sampling_params."""
    name = (found.param or "").rpartition(".")[2]
    if name in SamplingFields.__struct_fields__ and "unknown field" in found.message:
        return Complaint(found.param, f"{found.message.split(':')[0]}: {name} belongs in sampling_params")
    return found
