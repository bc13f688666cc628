"""How large a model's weights are, before they are loaded: from its checkpoint's headers, or else from its shape."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from engines.vllm_engine.checkpoint import checkpoint_files

EXPERT = re.compile(r"(?<!shared_)experts?\.|block_sparse_moe\.(input|output)_linear")
HEADER_LENGTH_BYTES = 8  # at the beginning of a safetensors file, little-endian
LARGEST_HEADER_BYTES = 100 << 20


class Weights(msgspec.Struct, frozen=True):
    """Bytes of the whole model: those of its experts, which can be spread over ranks, and the rest."""

    expert_bytes: int
    shared_bytes: int


class _Tensor(msgspec.Struct):
    data_offsets: tuple[int, int]


def read_weights(model_config: Any) -> Weights | None:  # Any: vLLM's ModelConfig
    """None where neither the checkpoint is on this machine nor transformers knows the architecture."""
    files = checkpoint_files(model_config.model, model_config.revision)
    if files:
        return _summed(tensor for file in files for tensor in _tensors(file))
    return _from_shape(model_config)


def _tensors(file: Path) -> Iterable[tuple[str, int]]:
    """Names and sizes in bytes, from the file's header. Raises ValueError for what is no safetensors file."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(HEADER_LENGTH_BYTES), "little")
        if not 0 < length <= LARGEST_HEADER_BYTES:
            raise ValueError(f"{file} is no safetensors file: its header would have {length} bytes")
        header = msgspec.json.decode(stream.read(length), type=dict[str, msgspec.Raw])
    for name, raw in header.items():
        if name != "__metadata__":
            begin, end = msgspec.json.decode(raw, type=_Tensor).data_offsets
            yield name, end - begin


def _from_shape(model_config: Any) -> Weights | None:
    """As transformers would build the model, without memory for it."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                model_config.hf_text_config, trust_remote_code=False
            )  # else it asks
    except Exception:  # noqa: BLE001  an architecture that transformers does not know, or a config it dislikes
        return None
    width = model_config.dtype.itemsize
    return _summed((name, parameter.numel() * width) for name, parameter in model.named_parameters())


def _summed(tensors: Iterable[tuple[str, int]]) -> Weights:
    expert_bytes = shared_bytes = 0
    for name, size in tensors:
        if EXPERT.search(name):
            expert_bytes += size
        else:
            shared_bytes += size
    return Weights(expert_bytes, shared_bytes)
