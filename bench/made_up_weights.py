"""`python -m bench.made_up_weights FOLDER`: PowerMoE-3b's shape with random weights on disk, the same for every run.

vLLM's load_format=dummy makes each worker's part up by itself, so that engines which divide the model differently hold
different models. Texts can be compared only where the weights come from files.
"""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.processes import ROOT, MeasurementFailed

if TYPE_CHECKING:
    import torch

SEED = 20_240_613
INDEX = "model.safetensors.index.json"
EMBEDDING_STD = 0.02  # tied: with more of it, every answer would repeat the last token of its prompt


def add_weights(folder: Path) -> None:
    """Writes them beside the folder's config.json, in a process of its own. Raises MeasurementFailed."""
    command = [sys.executable, "-m", "bench.made_up_weights", str(folder)]
    if subprocess.run(command, check=False, cwd=ROOT).returncode:
        raise MeasurementFailed(f"the weights could not be made: {' '.join(command)}")


def _write(folder: Path) -> None:
    """A file for each layer. Names and shapes are those of the model's published checkpoint."""
    import torch
    from safetensors.torch import save_file

    config: dict[str, Any] = json.loads((folder / "config.json").read_text())  # Any: JSON
    device = "cuda" if torch.cuda.is_available() else "cpu"
    random = torch.Generator(device).manual_seed(SEED)

    def tensor(gain: float, *shape: int) -> "torch.Tensor":
        bound = gain * math.sqrt(3 / shape[-1])  # uniform, scaled by the fan-in
        made = torch.empty(shape, dtype=torch.bfloat16, device=device)
        return made.uniform_(-bound, bound, generator=random).cpu()

    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    ones = torch.ones(hidden, dtype=torch.bfloat16)
    parts = [
        {
            "model.embed_tokens.weight": tensor(EMBEDDING_STD * math.sqrt(hidden), config["vocab_size"], hidden),
            "model.norm.weight": ones.clone(),
        }
    ]
    for layer in range(layers):
        block = _layer(tensor, config) | {
            "input_layernorm.weight": ones.clone(),
            "post_attention_layernorm.weight": ones.clone(),
        }
        parts.append({f"model.layers.{layer}.{name}": value for name, value in block.items()})
    index: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05}-of-{len(parts):05}.safetensors"
        save_file(part, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(part, name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))


def _layer(tensor: "Any", config: dict[str, Any]) -> "dict[str, torch.Tensor]":  # Any: the closure of _write
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = hidden // heads
    widths = {"q": hidden, "k": config["num_key_value_heads"] * head_dim, "v": config["num_key_value_heads"] * head_dim}
    experts, inner = config["num_local_experts"], config["intermediate_size"]
    attention = {f"self_attn.{name}_proj.weight": tensor(1.4, width, hidden) for name, width in widths.items()}
    return attention | {
        "self_attn.o_proj.weight": tensor(2.0, hidden, hidden),
        "block_sparse_moe.router.layer.weight": tensor(2.0, experts, hidden),
        "block_sparse_moe.input_linear.weight": tensor(2.0, experts, 2 * inner, hidden),
        "block_sparse_moe.output_linear.weight": tensor(2.0, experts, hidden, inner),
    }


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
