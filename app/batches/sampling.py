"""Sampling parameters of a batch and of its items: merged key by key, checked, and encoded for the ranks.

Types, ranges and limits are checked here, the rest by the engine. Equal parameters of many items are worked out once.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from app.errors import TooLarge
from app.settings.declaration import Settings
from app.settings.limits import parameter_limits
from app.validation import DECODE_ERRORS, Complaint, complaint, did_you_mean, short, shown
from engines.contract.limits import first_excess
from engines.contract.sampling import NO_SEED, SamplingFields, refusal, seed_refusal

FIELD_NAMES = SamplingFields.__struct_fields__
MAX_BYTES = 1024 * 1024  # of parameters as JSON, beside what a structure may have: they are decoded in one go
PLACE = "sampling_params"
OBJECTS = ("structured_outputs", "repetition_detection")  # fields that have fields of their own
_encode = msgspec.msgpack.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode  # Any: checked by the conversion that follows


class Params(msgspec.Struct, frozen=True):
    """Sampling parameters as an item needs them."""

    wire: bytes  # msgpack-encoded SamplingFields, without the seed
    n: int
    max_tokens: int
    seed: int | None
    seed_is_own: bool = False  # an item's: null says that it shall have none


class ParamsRefused(Exception):
    """Parameters that cannot run; `complaint.param` is the full place in the request."""

    def __init__(self, found: Complaint) -> None:
        super().__init__(found.message)
        self.complaint = found


class KnownParams:
    """What batches had of batch-wide parameters, by their JSON: clients send the same with each of many small ones."""

    MOST, MOST_BYTES = 256, 1024  # of each

    def __init__(self) -> None:
        self._fields: dict[bytes, SamplingFields] = {}

    def fields(self, raw: bytes, check: Callable[[bytes], SamplingFields]) -> SamplingFields:
        """What is set in it, which is not to be changed."""
        found = self._fields.get(raw)
        if found is None:
            found = check(raw)
            if len(raw) <= self.MOST_BYTES:
                if len(self._fields) == self.MOST:
                    self._fields.clear()
                self._fields[raw] = found
        return found


class SamplingResolver:
    """Works out the parameters of one batch's items. What is the batch's own is checked once, not with every item, nor
    again where it is `known` from another batch of the same settings."""

    def __init__(self, settings: Settings, batch_wide: bytes | None, known: KnownParams | None = None) -> None:
        self._settings = settings
        self._limits = parameter_limits(settings)
        self._base = (known or KnownParams()).fields(batch_wide or b"{}", lambda raw: self._checked(raw)[0])
        self._own: dict[bytes, Params | Complaint] = {}  # by an item's own JSON
        self._merged: dict[bytes, Params] = {}  # by what it sets besides the seed
        self._wires: dict[bytes, bytes] = {}  # equal ones are kept once
        self.wire_bytes = 0  # of all parameters that are not equal
        self.batch_wide = self._params(self._base)

    def forget_items(self) -> None:
        """Forgets what items had of their own: others follow, and there may be millions."""
        wire = self.batch_wide.wire
        self._own.clear()
        self._merged.clear()
        self._wires = {wire: wire}
        self.wire_bytes = len(wire)

    def of_item(self, own: bytes | None, place: str) -> Params:
        """An item's parameters. Raises ParamsRefused, naming `place`, or TooLarge."""
        if own is None:
            return self.batch_wide
        found = self._own.get(own)
        if found is None:
            found = self._own[own] = self._try(own)
        if isinstance(found, Complaint):
            param = f"{place}.{found.param}" if found.param else place
            raise ParamsRefused(Complaint(param, found.message))
        return found

    def _try(self, own: bytes) -> Params | Complaint:
        """Resolves an item's own parameters over the batch's; its complaint is relative to the item."""
        try:
            fields, nulls = self._checked(own)
        except ParamsRefused as refused:
            return refused.complaint
        seed, fields.seed = _or_none(fields.seed), msgspec.UNSET
        key = _encode((fields, sorted(nulls - {"seed"})))
        found = self._merged.get(key)
        if found is None:
            found = self._merged[key] = self._params(_over(self._base, fields, nulls))
        why = None if seed is None else seed_refusal(seed, found.n)
        if why is not None:
            return Complaint(f"{PLACE}.seed", f"{PLACE}.{why}")
        is_own = seed is not None or "seed" in nulls  # the batch's is not
        return msgspec.structs.replace(found, seed=seed, seed_is_own=is_own)

    def _checked(self, raw: bytes) -> tuple[SamplingFields, set[str]]:
        """What is set, and what is set to null, which restores a default. Raises ParamsRefused."""
        most = MAX_BYTES + 4 * self._settings.max_structure_length
        if len(raw) > most:
            raise ParamsRefused(Complaint(PLACE, f"{PLACE} has {len(raw)} bytes, at most {most} are accepted"))
        values = _object(raw, PLACE)
        nulls = {name for name, value in values.items() if value is None}
        _check_names(values, PLACE)
        values = _without_nulls(values)
        try:
            fields = msgspec.convert(values, SamplingFields, strict=True, str_keys=True)
        except DECODE_ERRORS as error:
            raise ParamsRefused(_with_value(complaint(error, PLACE, FIELD_NAMES), values)) from error
        if fields.seed == NO_SEED:
            fields.seed = msgspec.UNSET
            nulls.add("seed")
        excess = first_excess(fields, self._limits, PLACE)
        if excess is not None:
            raise ParamsRefused(Complaint(excess.param, excess.message))
        _wire(fields, PLACE)  # what cannot be encoded is refused here
        return fields, nulls

    def _params(self, fields: SamplingFields) -> Params:
        seed = _or_none(fields.seed)
        fields = _over(fields, SamplingFields(), {"seed"})
        if fields.max_tokens is msgspec.UNSET:
            fields.max_tokens = self._settings.default_max_tokens
        n = 1 if fields.n is msgspec.UNSET else fields.n
        return Params(self._kept(_wire(fields, PLACE)), n, fields.max_tokens, seed)

    def _kept(self, wire: bytes) -> bytes:
        """The one copy of it. A few bytes of an item's own may stand for much that is the batch's: that has a bound."""
        known = self._wires.setdefault(wire, wire)
        if known is wire:
            self.wire_bytes += len(wire)
            limit = self._settings.max_body_bytes
            if self.wire_bytes > limit:
                raise TooLarge(
                    f"the prompts' own sampling parameters, merged over the batch's, have more than {limit} bytes "
                    "(--max-body-bytes): let more prompts have equal ones, or split the batch",
                    param=PLACE,
                    code="batch_too_large",
                )
        return known


def _over(base: SamplingFields, own: SamplingFields, nulls: set[str]) -> SamplingFields:
    """The base with what is set in `own` in its place, and without what is null there."""
    merged = SamplingFields()
    for name in FIELD_NAMES:
        value = getattr(own, name)
        if value is msgspec.UNSET and name not in nulls:
            value = getattr(base, name)
        setattr(merged, name, value)
    return merged


def _or_none(value: int | msgspec.UnsetType) -> int | None:
    return None if value is msgspec.UNSET else value


def _object(raw: bytes, place: str) -> dict[str, Any]:
    """The fields of a JSON object, those that are null left in: they restore a default."""
    try:
        return _decode_object(raw)
    except DECODE_ERRORS as error:
        raise ParamsRefused(complaint(error, place)) from error


def _without_nulls(values: dict[str, Any]) -> dict[str, Any]:
    """Without the fields that are null, as if nobody had named them."""
    found = {name: value for name, value in values.items() if value is not None}
    for name in OBJECTS:
        if isinstance(found.get(name), dict):
            found[name] = {field: value for field, value in found[name].items() if value is not None}
    return found


def _check_names(values: dict[str, Any], place: str) -> None:
    for name, value in values.items():
        if name in FIELD_NAMES or value is None:
            continue
        why = refusal(name)
        name = short(name)  # noqa: PLW2901  it may be as long as the body
        param = f"{place}.{name}"
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
