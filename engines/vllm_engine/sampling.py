"""From SamplingFields to vLLM's SamplingParams: built and verified once for equal parameters, copied per item."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from engines.protocol import ItemError, ItemErrorCode
from engines.sampling import SamplingFields
from engines.vllm_engine import compat

CACHE_SIZE = 1024


class SamplingCompiler:
    """Builds SamplingParams that the engine will accept. Equal encodings share one template.

    `validate` is vLLM's own check of parameters; it raises whatever vLLM raises.
    """

    def __init__(self, model_config: Any, validate: Callable[[Any], None]) -> None:  # Any: vLLM's own classes
        self._vocab_size = model_config.get_vocab_size()
        self._defaults = model_config.get_diff_sampling_param()
        self._validate = validate
        self._templates: OrderedDict[bytes, Any] = OrderedDict()

    def template(self, params: bytes) -> Any:  # Any: vLLM's SamplingParams, or our ItemError
        """The parameters that these msgpack-encoded SamplingFields stand for, verified; an ItemError if refused."""
        found = self._templates.get(params)
        if found is None:
            found = self._compile(params)
            self._templates[params] = found
            if len(self._templates) > CACHE_SIZE:
                self._templates.popitem(last=False)
        return found

    def for_item(self, template: Any, seed: int | None, tokens_left: int) -> Any:  # Any: vLLM's SamplingParams
        """A copy for one item: its own seed, and no more tokens than the context has left."""
        params = copy.copy(template)
        params.seed = seed
        params.skip_clone = True  # vLLM need not copy it again: it belongs to this item alone
        if params.max_tokens > tokens_left:
            params.max_tokens = tokens_left
            params.min_tokens = min(params.min_tokens, tokens_left)
        return params

    def _compile(self, params: bytes) -> Any:
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        try:
            fields = msgspec.msgpack.decode(params, type=SamplingFields)
            arguments = self._defaults | _arguments(fields)
            built = SamplingParams(**arguments, output_kind=RequestOutputKind.FINAL_ONLY)
            self._verify_stop_tokens(built)
            self._validate(built)
        except Exception as error:  # noqa: BLE001  the door: whatever vLLM raises here is its answer to these parameters
            return _refusal(error)
        return built

    def _verify_stop_tokens(self, built: Any) -> None:
        """vLLM 0.26 does not check these itself."""
        beyond = [token for token in built.stop_token_ids or [] if token >= self._vocab_size]
        if beyond:
            raise ValueError(f"stop_token_ids has {beyond[0]}, but the vocabulary ends at {self._vocab_size - 1}")


def _arguments(fields: SamplingFields) -> dict[str, Any]:
    """Keyword arguments for vLLM's SamplingParams: only the fields that are set."""
    from vllm.sampling_params import RepetitionDetectionParams, SamplingParams, StructuredOutputsParams

    arguments = {name: getattr(fields, name) for name in fields.__struct_fields__}
    arguments = {name: value for name, value in arguments.items() if value is not msgspec.UNSET}
    for name in arguments:
        if name not in SamplingParams.__struct_fields__:
            raise ValueError(f"vLLM {compat.version()} has no sampling parameter {name!r}: leave it out")
    if "structured_outputs" in arguments:
        arguments["structured_outputs"] = StructuredOutputsParams(
            **msgspec.to_builtins(arguments["structured_outputs"])
        )
    if "repetition_detection" in arguments:
        arguments["repetition_detection"] = RepetitionDetectionParams(
            **msgspec.to_builtins(arguments["repetition_detection"])
        )
    return arguments


def _refusal(error: Exception) -> ItemError:
    if isinstance(error, msgspec.DecodeError):
        return ItemError(ItemErrorCode.INVALID_SAMPLING_PARAMS, str(error), "sampling_params")
    return compat.sampling_error(error)
