"""The least time that a GPU's memory allows for generating: every step reads the weights once, and the KV cache of all
sequences in it. Nothing can be faster; prefill, arithmetic and everything on the host come on top."""

import json
from pathlib import Path

import msgspec

from bench.workload import Workload

BANDWIDTHS = {"H100": 3.35e12, "H200": 4.8e12}  # bytes/s, of the SXM modules: NVIDIA's data sheets
BYTES = 2  # of a weight, and of an entry of the cache: bfloat16


class DecoderShape(msgspec.Struct, frozen=True):
    """What of a model's config.json decides how much is read."""

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int
    head_dim: int | None = None
    num_local_experts: int = 1
    num_experts: int | None = None
    moe_intermediate_size: int | None = None

    @classmethod
    def of(cls, model: str) -> "DecoderShape":
        """Of a model's folder."""
        return msgspec.convert(json.loads((Path(model) / "config.json").read_text()), cls)

    @property
    def kv_bytes(self) -> int:
        """Of a token, in all layers."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self._head_dim * BYTES

    def weight_bytes(self, shares: int) -> int:
        """What a GPU reads in a step that touches all its experts, a share of all; the rest it has whole.

        The table of embeddings is not read whole, the output layer is.
        """
        heads = self.num_attention_heads + self.num_key_value_heads
        attention = 2 * self.hidden_size * heads * self._head_dim
        experts = (self.num_experts or self.num_local_experts) / shares
        feed_forward = 3 * self.hidden_size * (self.moe_intermediate_size or self.intermediate_size) * experts
        return int((self.num_hidden_layers * (attention + feed_forward) + self.vocab_size * self.hidden_size) * BYTES)

    @property
    def _head_dim(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads


def bandwidth_of(gpu: str) -> float | None:
    """Of the memory of a GPU of this name; None where it is not known."""
    return next((bandwidth for name, bandwidth in BANDWIDTHS.items() if name in gpu), None)


def floor_tokens_per_s(
    shape: DecoderShape, work: Workload, sequences: int, ranks: int, shares: int, bandwidth: float
) -> float:
    """The most output tokens/s of so many ranks of one GPU each, whose steps have so many sequences throughout.

    `shares` is over how many GPUs the experts lie.
    """
    prompt = sum(map(len, work.prompts)) / len(work.prompts)
    read_tokens = sum(count * prompt + count * (count - 1) / 2 for count in work.likely_tokens or work.max_tokens)
    steps = work.output_tokens / (ranks * sequences)
    seconds = (steps * shape.weight_bytes(shares) + read_tokens * shape.kv_bytes / ranks) / bandwidth
    return work.output_tokens / seconds
