"""Builds small models locally, seeded, so that the service and its tests need neither a hub nor a network.

`phalanx-tiny-random` is a mixture of experts of PowerMoE's shape with random weights and a real tokenizer. A model's
folder appears by a rename, whole or not at all, and carries a manifest that says which recipe it came from.
"""

import fcntl
import json
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

RECIPE = 1  # raise it whenever a change here changes the files
SEED = 20_240_613
VOCAB_SIZE = 1024
MANIFEST = "phalanx-model.json"
CORPUS = Path(__file__).with_name("tokenizer_corpus.txt")

HIDDEN, LAYERS, HEADS, HEAD_DIM = 128, 2, 2, 64
EXPERTS, EXPERT_HIDDEN, DENSE_HIDDEN = 8, 128, 256
BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- if tools %}
{{- '<|system|>Tools:\\n' -}}
{%- for tool in tools %}{{ tool | tojson }}{{ '\\n' }}{% endfor %}
{%- endif %}
{%- for message in messages %}
{%- set role = message['role'] if message['role'] in ['system', 'assistant', 'tool'] else 'user' -%}
{{- '<|' + role + '|>' -}}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}{% for part in message['content'] or [] %}{{ part['text'] }}{% endfor %}{% endif %}
{%- for call in message['tool_calls'] or [] %}{{ call['function'] | tojson }}{% endfor %}
{{- '\\n' -}}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""


class Shape(StrEnum):
    """What can be built."""

    MOE = "moe"  # PowerMoE in small: granitemoe with 8 experts, 2 of them active
    DENSE = "dense"  # a llama of the same size, for replicas
    POWERMOE_3B = "powermoe-3b"  # PowerMoE-3b's config.json and a tokenizer; no weights, for load_format=dummy


BUILT_IN = {"phalanx-tiny-random": Shape.MOE, "phalanx-tiny-random-dense": Shape.DENSE}


def default_cache() -> Path:
    """Where built models are kept: ``$XDG_CACHE_HOME/phalanx/models``, or the same under ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "phalanx" / "models"


def build_named(name: str, cache: Path | None = None) -> Path:
    """The folder of the built-in model `name`, built there first if need be. KeyError for other names."""
    return build(BUILT_IN[name], (cache or default_cache()) / name)


def build(shape: Shape, folder: Path, seed: int = SEED) -> Path:
    """Makes `folder` hold this model, and returns it. Does nothing when it is there already.

    Several processes may build at once. Raises FileExistsError rather than replace files that are not ours.
    """
    manifest = _manifest(shape, seed)
    if _is_complete(folder, manifest):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_builder_of(folder):
        if not _is_complete(folder, manifest):
            _refuse_foreign(folder)
            _replace(folder, manifest, shape, seed)
    return folder


def _replace(folder: Path, manifest: dict[str, Any], shape: Shape, seed: int) -> None:  # Any: JSON
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write_files(fresh, shape, seed)
        sizes = {file.name: file.stat().st_size for file in sorted(fresh.iterdir())}
        _write_json(fresh / MANIFEST, manifest | {"files": sizes})
        fresh.chmod(0o755)  # mkdtemp gives 0700; a container's other users read models too
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def _only_builder_of(folder: Path) -> Iterator[None]:
    """Holds a file lock beside the folder; it ends with the process, however that ends."""
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _manifest(shape: Shape, seed: int) -> dict[str, Any]:
    return {"recipe": RECIPE, "shape": shape.value, "seed": seed, "corpus": zlib.crc32(CORPUS.read_bytes())}


def _is_complete(folder: Path, manifest: dict[str, Any]) -> bool:
    try:
        found = json.loads((folder / MANIFEST).read_text())
        sizes = found.pop("files")
        whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    return whole and bool(found == manifest)


def _refuse_foreign(folder: Path) -> None:
    ours = {MANIFEST, "config.json", "generation_config.json", "model.safetensors", *_TOKENIZER_FILES}
    foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in ours) if folder.exists() else []
    if foreign:
        raise FileExistsError(f"{folder} holds {foreign[0]!r}, which is not ours to replace: name another folder")


def _write_files(folder: Path, shape: Shape, seed: int) -> None:
    tokenizer = _train_tokenizer()
    ids = {"bos_token_id": tokenizer.token_to_id(BOS), "eos_token_id": tokenizer.token_to_id(EOS)}
    ids["pad_token_id"] = tokenizer.token_to_id(PAD)
    config = _CONFIGS[shape] | ids
    _write_tokenizer(folder, tokenizer, config["vocab_size"], config["max_position_embeddings"])
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", ids)
    if shape is not Shape.POWERMOE_3B:
        _write_weights(folder / "model.safetensors", config, seed)


# ---------------------------------------------------------------- configurations

_COMMON: dict[str, Any] = {
    "attention_bias": False,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
_TINY = _COMMON | {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,  # tied random weights would repeat the last token for ever
    "torch_dtype": "float32",
}
_GRANITE_MOE = {"model_type": "granitemoe", "architectures": ["GraniteMoeForCausalLM"], "residual_multiplier": 0.22}
_CONFIGS: dict[Shape, dict[str, Any]] = {
    Shape.MOE: _TINY
    | _GRANITE_MOE
    | {
        "intermediate_size": EXPERT_HIDDEN,
        "num_local_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "attention_multiplier": HEAD_DIM**-0.5,
        "embedding_multiplier": 12.0,
        "logits_scaling": 6.0,
    },
    Shape.DENSE: _TINY
    | {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "intermediate_size": DENSE_HIDDEN},
    Shape.POWERMOE_3B: _COMMON
    | _GRANITE_MOE
    | {
        "vocab_size": 49152,
        "hidden_size": 1536,
        "intermediate_size": 512,
        "num_hidden_layers": 32,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "num_local_experts": 40,
        "num_experts_per_tok": 8,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "attention_multiplier": 0.015625,
        "embedding_multiplier": 12.0,
        "logits_scaling": 6.0,
        "torch_dtype": "bfloat16",
    },
}

# ---------------------------------------------------------------- tokenizer

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def _train_tokenizer() -> "Tokenizer":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS, EOS, PAD, *ROLES],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS.read_text(encoding="utf-8").splitlines(keepends=True), trainer)
    return tokenizer


def _write_tokenizer(folder: Path, tokenizer: "Tokenizer", vocab_size: int, max_tokens: int) -> None:
    content = json.loads(tokenizer.to_str())
    vocab: dict[str, int] = content["model"]["vocab"]
    # A larger vocabulary is filled with words that no merge makes: every id a model may answer with has a text.
    vocab.update({f"Ġword{token}": token for token in range(len(vocab), vocab_size)})
    _write_json(folder / "tokenizer.json", content)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "model_max_length": max_tokens,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    _write_json(folder / "tokenizer_config.json", config)


# ---------------------------------------------------------------- weights


def _write_weights(path: Path, config: dict[str, Any], seed: int) -> None:
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

    embedding_gain = math.sqrt(HIDDEN) / config.get("embedding_multiplier", 1.0)
    tensors = {
        "model.embed_tokens.weight": tensor(embedding_gain, VOCAB_SIZE, HIDDEN),
        "lm_head.weight": tensor(3 * config.get("logits_scaling", 1.0), VOCAB_SIZE, HIDDEN),
        "model.norm.weight": _ones(),
    }
    for layer in range(LAYERS):
        block = _layer(tensor, config)
        tensors |= {f"model.layers.{layer}.{name}": value for name, value in block.items()}
    save_file(tensors, path, metadata={"format": "pt"})


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


def _ones() -> "NDArray[np.float32]":
    import numpy as np

    return np.ones(HIDDEN, dtype="float32")


def _write_json(path: Path, value: dict[str, Any]) -> None:  # Any: JSON
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
