"""From SamplingFields to vLLM's SamplingParams: built and verified once for equal parameters, copied per item."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec

from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.sampling import SamplingFields, StructuredOutputs
from engines.host.installed import vllm_version
from engines.vllm_engine import compat, worker_limits
from engines.vllm_engine.bounded_cache import BoundedCache
from engines.vllm_engine.output_checks import StructureUse
from engines.vllm_engine.structure_work import StructureVerdict
from engines.vllm_engine.structures import StructureChecker

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SamplingFields).decode


class SamplingCompiler:
    """Builds SamplingParams that the engine will accept. Equal encodings share one template.

    `validate` is vLLM's own check of parameters but for their structure: it returns them as the engine core would get
    them, and raises whatever vLLM raises.
    """

    def __init__(
        self, model_config: Any, tokenizer: Any, validate: Callable[[Any], Any], structures: StructureChecker
    ) -> None:  # Any: vLLM's own classes
        self._vocab_size = model_config.get_vocab_size()
        self._defaults = model_config.get_diff_sampling_param()
        self._tokenizer = tokenizer
        self._validate = validate
        self._structures = structures
        self._templates: BoundedCache[Any] = BoundedCache()

    def template(self, params: bytes) -> Any:  # Any: vLLM's SamplingParams, or our ItemError
        """The parameters that these msgpack-encoded SamplingFields stand for, verified; an ItemError if refused.

        None while nobody has checked their structure: `checked` does, which takes its time.
        """
        found = self._templates.get(params)
        if found is None:
            found = self._compile(params)
            if found is not None:
                self._templates.put(params, found)
        return found

    async def checked(self, params: bytes) -> Any:  # Any: as above
        """The template, with its structure checked."""
        found = self.template(params)
        if found is None:
            verdict = await self._structures.check(structure_key(_decode(params).structured_outputs))
            found = verdict.error or self.template(params) or self._compile(params, verdict)
        return found

    def for_item(self, template: Any, seed: int | None, tokens_left: int) -> Any:  # Any: vLLM's SamplingParams
        """A copy for one item: its own seed, and no more tokens than the context has left."""
        params = copy.copy(template)
        params.seed = seed
        params.structure_use = template.structure_use
        params.skip_clone = True  # vLLM need not copy it again: it belongs to this item alone
        if params.max_tokens > tokens_left:
            params.max_tokens = tokens_left
            params.min_tokens = min(params.min_tokens, tokens_left)
        return params

    def _compile(self, params: bytes, verdict: StructureVerdict | None = None) -> Any:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        try:
            fields = _decode(params)
            if fields.structured_outputs is not msgspec.UNSET:
                verdict = verdict or self._structures.known(structure_key(fields.structured_outputs))
                if verdict is None or verdict.error is not None:
                    return verdict and verdict.error
            arguments = self._defaults | _arguments(fields) | {"output_kind": RequestOutputKind.FINAL_ONLY}
            validated = self._validate(self._verified_stop_tokens(SamplingParams(**arguments)))
            worker_limits.check(validated, self._vocab_size)
            template = verified_class()(**arguments)
            template.learn_bad_words(self._tokenizer)
            template.structure_use = _structure_use(fields)
            if verdict is not None:
                template.structured_outputs = rebuilt_structure(verdict.fields)
        except Exception as error:  # noqa: BLE001  the door: whatever vLLM raises here is its answer to these parameters
            return _refusal(error)
        return template

    def _verified_stop_tokens(self, built: Any) -> Any:
        """vLLM 0.26 does not check these itself."""
        beyond = [token for token in built.stop_token_ids or [] if token >= self._vocab_size]
        if beyond:
            raise ValueError(f"stop_token_ids has {beyond[0]}, but the vocabulary ends at {self._vocab_size - 1}")
        return built


@cache
def verified_class() -> Any:
    """SamplingParams that were verified, and need not be again with every item that has a copy of them.

    vLLM would compile a structure once more on the rank's loop, and tokenise the bad words.
    """
    from vllm.sampling_params import SamplingParams

    class VerifiedSamplingParams(SamplingParams, dict=True):  # type: ignore[misc, call-arg]  # vllm is untyped
        # `structure_use` is set beside the fields: it stays in the rank.

        def verify(self, *_: Any, **__: Any) -> None:
            pass

        def update_from_tokenizer(self, tokenizer: Any) -> None:
            pass

        def learn_bad_words(self, tokenizer: Any) -> None:
            """What `update_from_tokenizer` of vLLM does."""
            super().update_from_tokenizer(tokenizer)

    return VerifiedSamplingParams


def _structure_use(fields: SamplingFields) -> StructureUse | None:
    """What outputs are judged by. Raises ValueError where their text would not be what the structure asks for."""
    use = StructureUse.of(fields)
    if use is not None and fields.detokenize is False:
        raise ValueError("detokenize=false leaves no text to be held to structured_outputs: leave one of them out")
    if use is not None and fields.skip_special_tokens is False and fields.include_stop_str_in_output is True:
        raise ValueError(
            "skip_special_tokens=false and include_stop_str_in_output=true put the token that ends a text into it, "
            "against structured_outputs: leave one of them out"
        )
    return use


def structure_key(structure: StructuredOutputs | msgspec.UnsetType) -> bytes:
    """What a verdict is about. Any other parameters may go with it."""
    return _encode(structure)


def rebuilt_structure(fields: dict[str, Any]) -> Any:
    """vLLM's StructuredOutputsParams as it was after vLLM had verified it, without doing that again."""
    from vllm.sampling_params import StructuredOutputsParams

    structure = object.__new__(StructuredOutputsParams)
    vars(structure).update(fields)
    return structure


def _arguments(fields: SamplingFields) -> dict[str, Any]:
    """Keyword arguments for vLLM's SamplingParams: only the fields that are set, and not the structure."""
    from vllm.sampling_params import RepetitionDetectionParams, SamplingParams

    arguments = {name: getattr(fields, name) for name in fields.__struct_fields__}
    arguments = {name: value for name, value in arguments.items() if value is not msgspec.UNSET}
    for name in arguments:
        if name not in SamplingParams.__struct_fields__:
            raise ValueError(f"vLLM {vllm_version()} has no sampling parameter {name!r}: leave it out")
    arguments.pop("structured_outputs", None)
    if "repetition_detection" in arguments:
        arguments["repetition_detection"] = RepetitionDetectionParams(
            **msgspec.to_builtins(arguments["repetition_detection"])
        )
    return arguments


def _refusal(error: Exception) -> ItemError:
    if isinstance(error, msgspec.DecodeError):
        return ItemError(ItemErrorCode.INVALID_SAMPLING_PARAMS, str(error), "sampling_params")
    return compat.sampling_error(error)
