"""Sampling parameters of a batch and of its items: merged key by key, checked, and encoded for the ranks.

Types and limits are checked here, values by the engine. Equal parameters of many items are worked out once.
"""

import math
from collections.abc import Iterable
from typing import Any

import msgspec

from app.settings import Settings
from app.validation import DECODE_ERRORS, Complaint, complaint, did_you_mean, shown
from engines.sampling import SamplingFields, refusal

FIELD_NAMES = SamplingFields.__struct_fields__
MAX_SCHEMA_DEPTH = 64
_encode = msgspec.msgpack.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode  # Any: checked by the conversion that follows


class Params(msgspec.Struct, frozen=True):
    """Sampling parameters as an item needs them."""

    wire: bytes  # msgpack-encoded SamplingFields, without the seed
    n: int
    max_tokens: int
    seed: int | None


class ParamsRefused(Exception):
    """Parameters that cannot run; `complaint.param` is the full place in the request."""

    def __init__(self, found: Complaint) -> None:
        super().__init__(found.message)
        self.complaint = found


class SamplingResolver:
    """Works out the parameters of one batch's items."""

    def __init__(self, settings: Settings, batch_wide: bytes | None) -> None:
        self._settings = settings
        self._base = _object(batch_wide, "sampling_params") if batch_wide else {}
        self._own: dict[bytes, Params | Complaint] = {}
        self.batch_wide = self._resolve(self._base, "sampling_params")

    def of_item(self, own: bytes | None, place: str) -> tuple[Params, bool]:
        """An item's parameters, and whether the seed is its own. Raises ParamsRefused, naming `place`."""
        if own is None:
            return self.batch_wide, False
        found = self._own.get(own)
        if found is None:
            found = self._own[own] = self._try(own)
        if isinstance(found, Complaint):
            param = f"{place}.{found.param}" if found.param else place
            raise ParamsRefused(Complaint(param, found.message))
        return found, found.seed is not None

    def _try(self, own: bytes) -> Params | Complaint:
        """Resolves an item's own parameters over the batch's; its complaint is relative to the item."""
        try:
            fields = _object(own, "sampling_params")
            merged = {name: value for name, value in (self._base | fields).items() if value is not None}
            resolved = self._resolve(merged, "sampling_params")
        except ParamsRefused as refused:
            return refused.complaint
        if fields.get("seed") is None:
            return msgspec.structs.replace(resolved, seed=None)  # the batch's seed is not the item's own
        return resolved

    def _resolve(self, values: dict[str, Any], place: str) -> Params:
        _check_names(values, place)
        try:
            fields = msgspec.convert(values, SamplingFields, strict=True, str_keys=True)
        except DECODE_ERRORS as error:
            raise ParamsRefused(_with_value(complaint(error, place, FIELD_NAMES), values)) from error
        self._check_limits(fields, place)
        seed = None if fields.seed is msgspec.UNSET else fields.seed
        fields.seed = msgspec.UNSET
        if fields.max_tokens is msgspec.UNSET:
            fields.max_tokens = self._settings.default_max_tokens
        n = 1 if fields.n is msgspec.UNSET else fields.n
        return Params(_wire(fields, place), n, fields.max_tokens, seed)

    def _check_limits(self, fields: SamplingFields, place: str) -> None:
        limits = self._settings
        stops = [fields.stop] if isinstance(fields.stop, str) else _list(fields.stop)
        structured = fields.structured_outputs
        lengths = {"stop": len(stops), "bad_words": len(_list(fields.bad_words))}
        for name, length in lengths.items():
            _limit(f"{place}.{name}", "entries", length, limits.max_stop_strings, "--max-stop-strings")
        for name in ("stop_token_ids", "allowed_token_ids", "logprob_token_ids", "logit_bias"):
            _limit(
                f"{place}.{name}",
                "entries",
                len(_list(getattr(fields, name))),
                limits.max_list_length,
                "--max-list-length",
            )
        for name, strings in (("stop", stops), ("bad_words", _list(fields.bad_words))):
            longest = max(map(len, strings), default=0)
            _limit(f"{place}.{name}", "characters", longest, limits.max_string_length, "--max-string-length")
        if fields.n is not msgspec.UNSET:
            _limit(f"{place}.n", "outputs", fields.n, limits.max_n, "--max-n")
        if structured is not msgspec.UNSET:
            _check_structure(structured, f"{place}.structured_outputs", limits)
        _check_finite(fields, place)


def _object(raw: bytes, place: str) -> dict[str, Any]:
    """The fields of a JSON object, those that are null left in: they restore a default."""
    try:
        return _decode_object(raw)
    except DECODE_ERRORS as error:
        raise ParamsRefused(complaint(error, place)) from error


def _check_names(values: dict[str, Any], place: str) -> None:
    for name in [name for name, value in values.items() if value is None]:
        del values[name]
    for name in values:
        if name in FIELD_NAMES:
            continue
        param = f"{place}.{name}"
        why = refusal(name)
        if why is not None:
            raise ParamsRefused(Complaint(param, f"{param} is not accepted: {why}; leave it out"))
        raise ParamsRefused(Complaint(param, f"{param} is no sampling parameter{did_you_mean(name, FIELD_NAMES)}"))


def _with_value(found: Complaint, values: dict[str, Any]) -> Complaint:
    """Adds the offending value, where it is a field of the first level."""
    name = (found.param or "").split(".")[1:2]
    if name and name[0] in values:
        return Complaint(found.param, f"{found.message} (it is {shown(values[name[0]])})")
    return found


def _wire(fields: SamplingFields, place: str) -> bytes:
    try:
        return _encode(fields)
    except OverflowError:  # only a JSON schema holds numbers of any size
        param = f"{place}.structured_outputs.json"
        raise ParamsRefused(Complaint(param, f"{param} has a whole number of more than 64 bits")) from None


def _limit(param: str, what: str, size: int, limit: int, flag: str) -> None:
    if size > limit:
        raise ParamsRefused(Complaint(param, f"{param} has {size} {what}, at most {limit} are accepted ({flag})"))


def _check_structure(structured: Any, place: str, limits: Settings) -> None:
    """Bounds what a grammar compiler is given."""
    for name in structured.__struct_fields__:
        value, param = getattr(structured, name), f"{place}.{name}"
        size = 0
        if isinstance(value, dict):
            _check_depth(value, param)
            size = len(msgspec.json.encode(value))
        elif isinstance(value, str):
            size = len(value)
        elif isinstance(value, list):
            _limit(param, "entries", len(value), limits.max_list_length, "--max-list-length")
            size = sum(map(len, value))
        _limit(param, "characters", size, limits.max_structure_length, "--max-structure-length")


def _check_depth(schema: Any, place: str) -> None:
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise ParamsRefused(Complaint(place, f"{place} is nested deeper than {MAX_SCHEMA_DEPTH} levels"))


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _check_finite(fields: SamplingFields, place: str) -> None:
    for name in FIELD_NAMES:
        value = getattr(fields, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ParamsRefused(Complaint(f"{place}.{name}", f"{place}.{name} is {value}: it must be a finite number"))


def _list(value: Any) -> list[Any]:
    return [] if value is msgspec.UNSET else value
