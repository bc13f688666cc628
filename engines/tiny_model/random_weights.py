"""Random weights for the tiny models, the same bytes on every machine."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.tiny_model.shapes import DENSE_HIDDEN, EXPERT_HIDDEN, EXPERTS, HIDDEN, RANDOM_LAYERS, VOCAB_SIZE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def write_random_weights(path: Path, config: dict[str, Any], seed: int) -> None:  # Any: JSON
    """Random weights, scaled so that every block moves the residual stream about as much as the embedding does.

    With the usual small initialisation an answer would hardly depend on its prompt. With these gains greedy text
    follows the whole context, and logits spread over several units, far from ties in float32.
    """
    from numpy.random import RandomState
    from safetensors.numpy import save_file

    random = RandomState(seed)

    def tensor(gain: float, *shape: int) -> "NDArray[np.float32]":
        # Scaled by the fan-in. Uniform, because that takes no logarithm: the same bytes on every machine.
        bound = gain * math.sqrt(3 / shape[-1])
        return random.uniform(-bound, bound, shape).astype("float32")

    tensors = _encoder(tensor, config) if config["model_type"] == "bert" else _decoder(tensor, config)
    save_file(tensors, path, metadata={"format": "pt"})


def _decoder(tensor: "Callable[..., NDArray[np.float32]]", config: dict[str, Any]) -> "dict[str, NDArray[np.float32]]":
    """Of a model that generates."""
    embedding_gain = math.sqrt(HIDDEN) / config.get("embedding_multiplier", 1.0)
    tensors = {
        "model.embed_tokens.weight": tensor(embedding_gain, VOCAB_SIZE, HIDDEN),
        "lm_head.weight": tensor(3 * config.get("logits_scaling", 1.0), VOCAB_SIZE, HIDDEN),
        "model.norm.weight": _ones(),
    }
    for layer in range(RANDOM_LAYERS):
        block = _layer(tensor, config)
        tensors |= {f"model.layers.{layer}.{name}": value for name, value in block.items()}
    return tensors


def _layer(tensor: "Callable[..., NDArray[np.float32]]", config: dict[str, Any]) -> "dict[str, NDArray[np.float32]]":
    """One layer's tensors, by the names of the model's published checkpoints."""
    out = 1 / config.get("residual_multiplier", 1.0)
    layer = {"input_layernorm.weight": _ones(), "post_attention_layernorm.weight": _ones()}
    for name, gain in (("q", 1.4), ("k", 1.4), ("v", 2.0), ("o", out)):
        layer[f"self_attn.{name}_proj.weight"] = tensor(gain, HIDDEN, HIDDEN)
    if config["model_type"] == "granitemoe":
        layer["block_sparse_moe.router.layer.weight"] = tensor(2.0, EXPERTS, HIDDEN)
        layer["block_sparse_moe.input_linear.weight"] = tensor(2.0, EXPERTS, 2 * EXPERT_HIDDEN, HIDDEN)
        layer["block_sparse_moe.output_linear.weight"] = tensor(out, EXPERTS, HIDDEN, EXPERT_HIDDEN)
    else:
        layer["mlp.gate_proj.weight"] = tensor(2.0, DENSE_HIDDEN, HIDDEN)
        layer["mlp.up_proj.weight"] = tensor(2.0, DENSE_HIDDEN, HIDDEN)
        layer["mlp.down_proj.weight"] = tensor(out, HIDDEN, DENSE_HIDDEN)
    return layer


def _encoder(tensor: "Callable[..., NDArray[np.float32]]", config: dict[str, Any]) -> "dict[str, NDArray[np.float32]]":
    """Of a BERT, by the names of its published checkpoints."""
    sizes = {"word": VOCAB_SIZE, "position": config["max_position_embeddings"], "token_type": config["type_vocab_size"]}
    tensors = {f"embeddings.{name}_embeddings.weight": tensor(1.0, size, HIDDEN) for name, size in sizes.items()}
    tensors |= _normalisation("embeddings")
    for layer in range(RANDOM_LAYERS):
        place = f"encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            tensors |= _linear(tensor, f"{place}.attention.self.{name}", HIDDEN, HIDDEN)
        for name, outputs, inputs in (
            ("attention.output", HIDDEN, HIDDEN),
            ("intermediate", DENSE_HIDDEN, HIDDEN),
            ("output", HIDDEN, DENSE_HIDDEN),
        ):
            tensors |= _linear(tensor, f"{place}.{name}.dense", outputs, inputs)
        tensors |= _normalisation(f"{place}.attention.output") | _normalisation(f"{place}.output")
    return tensors


def _linear(
    tensor: "Callable[..., NDArray[np.float32]]", name: str, outputs: int, inputs: int
) -> "dict[str, NDArray[np.float32]]":
    return {f"{name}.weight": tensor(1.4, outputs, inputs), f"{name}.bias": 0 * tensor(1.0, outputs)}


def _normalisation(place: str) -> "dict[str, NDArray[np.float32]]":
    return {f"{place}.LayerNorm.weight": _ones(), f"{place}.LayerNorm.bias": 0 * _ones()}


def _ones() -> "NDArray[np.float32]":
    import numpy as np

    return np.ones(HIDDEN, dtype="float32")
