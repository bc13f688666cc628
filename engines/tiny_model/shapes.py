"""What the tiny models are: their names, shapes and sizes, and what stands in their config.json."""

from enum import StrEnum
from typing import Any

HIDDEN, HEADS, HEAD_DIM = 128, 2, 64  # vLLM's CPU attention takes no smaller heads than 64
RANDOM_LAYERS, TRAINED_LAYERS = 2, 4
EXPERTS, EXPERT_HIDDEN, DENSE_HIDDEN = 8, 128, 256
TRAINED_EXPERT_HIDDEN = 64
VOCAB_SIZE, TRAINED_VOCAB_SIZE = 1024, 2048


class Shape(StrEnum):
    """What can be built."""

    TRAINED = "trained"  # as MOE, with the weights that training/ made: it speaks in whole sentences
    MOE = "moe"  # PowerMoE in small: granitemoe with 8 experts, 2 of them active; random weights
    DENSE = "dense"  # a llama of the same size, for replicas
    EMBEDDING = "embedding"  # a BERT of the same size, with a sentence-transformers configuration; random weights
    POWERMOE_3B = "powermoe-3b"  # PowerMoE-3b's config.json and a tokenizer; no weights, for load_format=dummy
    QWEN3_30B_A3B = "qwen3-30b-a3b"  # the same of Qwen3-30B-A3B: 61 GB of weights, which keep a GPU busy


BUILT_IN = {
    "phalanx-tiny": Shape.TRAINED,
    "phalanx-tiny-random": Shape.MOE,
    "phalanx-tiny-random-dense": Shape.DENSE,
    "phalanx-tiny-random-embedding": Shape.EMBEDDING,
}

_COMMON: dict[str, Any] = {  # Any: JSON, here and below
    "attention_bias": False,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
_TINY = _COMMON | {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": HIDDEN,
    "num_hidden_layers": RANDOM_LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,  # tied random weights would repeat the last token for ever
    "torch_dtype": "float32",
}
_GRANITE_MOE = {"model_type": "granitemoe", "architectures": ["GraniteMoeForCausalLM"], "residual_multiplier": 0.22}
_TINY_MOE = (
    _TINY
    | _GRANITE_MOE
    | {
        "intermediate_size": EXPERT_HIDDEN,
        "num_local_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "attention_multiplier": HEAD_DIM**-0.5,
        "embedding_multiplier": 12.0,
        "logits_scaling": 6.0,
    }
)
CONFIGS: dict[Shape, dict[str, Any]] = {
    Shape.TRAINED: _TINY_MOE
    | {
        "vocab_size": TRAINED_VOCAB_SIZE,
        "num_hidden_layers": TRAINED_LAYERS,
        "intermediate_size": TRAINED_EXPERT_HIDDEN,
        "residual_multiplier": 0.6,  # so few layers learn faster when each may say more
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    },
    Shape.MOE: _TINY_MOE,
    Shape.DENSE: _TINY
    | {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "intermediate_size": DENSE_HIDDEN},
    Shape.EMBEDDING: {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": VOCAB_SIZE,
        "hidden_size": HIDDEN,
        "num_hidden_layers": RANDOM_LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": DENSE_HIDDEN,
        "hidden_act": "gelu",
        "max_position_embeddings": 8192,  # longer than a step of vLLM's is by default on a CPU
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "matryoshka_dimensions": [HIDDEN // 2, HIDDEN],  # a request may ask for the shorter vectors
        "torch_dtype": "float32",
    },
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
    Shape.QWEN3_30B_A3B: _COMMON
    | {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,  # of layers without experts, of which there are none
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "max_position_embeddings": 40960,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    },
}
WITHOUT_WEIGHTS = (Shape.POWERMOE_3B, Shape.QWEN3_30B_A3B)

# How hidden states become a vector, as sentence-transformers writes it down: files below the model's folder.
_MODULE = "sentence_transformers.models"
POOLING_FILES: dict[str, Any] = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": f"{_MODULE}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{_MODULE}.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{_MODULE}.Normalize"},
    ],
    "1_Pooling/config.json": {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True},
}
