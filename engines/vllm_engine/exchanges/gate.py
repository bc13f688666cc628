"""What parameters of an exchange have to pass before the engine gets them: all that those of an item have to.

vLLM's application has made SamplingParams of the request; here they are read back into the contract's strict types,
held against the limits of the engine's workers, and their structure is compiled aside. What vLLM would check itself
with each request is left to it.
"""

import copy
import dataclasses
import re
from collections.abc import Callable
from typing import Any

import msgspec

from engines.contract.item_errors import ItemErrorCode
from engines.contract.limits import ParameterLimits, first_excess
from engines.contract.sampling import SamplingFields, StructuredOutputs, refusal, seed_refusal
from engines.vllm_engine import worker_limits
from engines.vllm_engine.sampling import rebuilt_structure, structure_key, verified_class
from engines.vllm_engine.structures import StructureChecker

# What vLLM's application sets by itself, or what is harmless where it is set in a request.
APPLICATION_FIELDS = ("output_kind", "skip_clone", "stream_interval", "output_text_buffer_length")
# What only an engine with the parameters before it can tell whether it has room for.
LIMITED_FIELDS = ("bad_words", "stop_token_ids", "min_tokens", "logprobs", "prompt_logprobs", "logprob_token_ids")
NOTHING: tuple[Any, ...] = ({}, [])  # what the application sets where a request says nothing
PLACE = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")  # in msgspec's complaints
# What the application makes extra_args of, and a request knows by these names. All others are in vllm_xargs.
TRANSFERS = ("kv_transfer_params", "ec_transfer_params")


class ParameterRefused(ValueError):
    """`parameter` is the field to blame, as in vLLM's own errors."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class EngineBusy(Exception):
    """The request is well, and cannot be run now. The message is for the client."""


class ParameterGate:
    """Lets parameters through, or raises ValueError with what is wrong, which vLLM's application answers with 400."""

    def __init__(
        self,
        vocab_size: int,
        tokenizer: Any,  # Any: vLLM's own classes, here and below
        validate: Callable[[Any], Any],
        structures: StructureChecker,
        limits: ParameterLimits,
    ) -> None:
        from vllm.sampling_params import SamplingParams

        self._vocab_size = vocab_size
        self._tokenizer = tokenizer
        self._validate = validate
        self._structures = structures
        self._limits = limits
        self._blank = SamplingParams()
        # Bad words are kept as tokens, and what is private is vLLM's own.
        self._public = tuple(name for name in SamplingParams.__struct_fields__ if not name.startswith("_"))

    async def pass_through(self, params: Any) -> Any:  # Any: vLLM's SamplingParams
        """The parameters as the engine may have them. Raises ValueError, and EngineBusy."""
        fields = self._strict(params)
        structure = fields.structured_outputs
        if structure is msgspec.UNSET:
            if any(getattr(params, name) for name in LIMITED_FIELDS):
                worker_limits.check(self._validate(copy.copy(params)), self._vocab_size)
            return params
        return await self._with_structure(params, structure)

    def _strict(self, params: Any) -> SamplingFields:
        """What differs from vLLM's defaults, in the contract's types."""
        given: dict[str, Any] = {}
        for name in self._public:
            value = getattr(params, name)
            if value == getattr(self._blank, name) or name in APPLICATION_FIELDS or value in NOTHING:
                continue
            if why := refusal(name):
                asked = _as_asked(name, value)
                raise ParameterRefused(asked, f"{asked} is not served: {why}; leave it out")
            given[name] = _plain(value)
        try:
            fields = msgspec.convert(given, SamplingFields)
        except msgspec.ValidationError as error:
            raise _mistyped(error) from error
        if excess := first_excess(fields, self._limits):
            raise ParameterRefused(excess.param.partition(".")[0], excess.message)
        if params.seed is not None and (why := seed_refusal(params.seed, params.n)):
            raise ParameterRefused("seed", why)
        for token in params.stop_token_ids or ():  # vLLM 0.26 does not check these itself
            if token >= self._vocab_size:
                end = self._vocab_size - 1
                raise ParameterRefused(
                    "stop_token_ids", f"stop_token_ids has {token}, but the vocabulary ends at {end}"
                )
        return fields

    async def _with_structure(self, params: Any, structure: StructuredOutputs) -> Any:
        verdict = await self._structures.check(structure_key(structure))
        if verdict.error is not None:
            busy = verdict.error.code is ItemErrorCode.ENGINE_ERROR
            raise (EngineBusy if busy else ValueError)(verdict.error.message)
        bare = copy.copy(params)
        bare.structured_outputs = None
        worker_limits.check(self._validate(bare), self._vocab_size)
        passed = verified_class()()
        for name in params.__struct_fields__:
            setattr(passed, name, getattr(params, name))
        passed.structured_outputs = rebuilt_structure(verdict.fields)
        passed.structure_use = None
        passed.learn_bad_words(self._tokenizer)
        return passed


def _as_asked(name: str, value: Any) -> str:
    """The name under which a request has set a field."""
    if name != "extra_args":
        return name
    return next((transfer for transfer in TRANSFERS if transfer in value), "vllm_xargs")


def _mistyped(error: msgspec.ValidationError) -> ValueError:
    found = PLACE.search(str(error))
    if found is None:
        return ValueError(str(error))
    reason = str(error)[: found.start()].replace("`", "")
    path = found["path"]
    return ParameterRefused(re.split(r"[.\[]", path)[0], f"{path}: {reason[:1].lower()}{reason[1:]}")


def _plain(value: Any) -> Any:
    """A value as msgspec converts it: vLLM's own dataclasses as mappings of what is set in them."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {name: field for name, field in fields.items() if field not in (None, False) and not name.startswith("_")}
