"""How long vLLM's fused-MoE kernel takes with given tiles: on this process's GPU, with made-up weights and tokens."""

from functools import cache
from typing import Any

from engines.contract.experts import EXPERT_FIELDS
from engines.vllm_engine.moe_tiles import ExpertShape, Tile, TilesUnsuitable

CALLS_PER_GRAPH, REPLAYS = 10, 5
TOP_K_FIELDS = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk", "top_k_experts")


def expert_shape(model: str, revision: str | None, experts: int, width: int) -> ExpertShape:
    """What else the kernel's speed depends on, from the model's configuration. Raises TilesUnsuitable."""
    config = _text_config(model, revision)
    top_k, all_experts = _first(config, TOP_K_FIELDS), _first(config, EXPERT_FIELDS)
    hidden = _first(config, ("hidden_size",))
    if top_k is None or all_experts is None or hidden is None or experts > all_experts:
        raise TilesUnsuitable(f"the configuration of {model} does not say how its experts are used")
    return ExpertShape(experts, all_experts, width, hidden, top_k)


def _first(config: Any, names: tuple[str, ...]) -> int | None:  # Any: transformers' configuration
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


@cache
def _text_config(model: str, revision: str | None) -> Any:  # Any: transformers' configuration
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False).get_text_config()
    except (OSError, ValueError) as error:
        raise TilesUnsuitable(f"transformers does not read the configuration of {model}: {error}") from error


class MoeTiming:
    """Weights of one layer, and tokens for it. Raises TilesUnsuitable where there is no GPU."""

    def __init__(self, shape: ExpertShape, model: str, revision: str | None) -> None:
        import torch

        if not torch.cuda.is_available():
            raise TilesUnsuitable("there is no GPU")
        self._shape = shape
        dtype = getattr(_text_config(model, revision), "dtype", None)
        self._dtype = dtype if dtype in (torch.bfloat16, torch.float16) else torch.bfloat16
        generator = torch.Generator(device="cuda").manual_seed(0)
        self._generator = generator
        with torch.device("cuda"):
            self._gate_up = torch.randn(
                shape.experts, 2 * shape.width, shape.hidden, dtype=self._dtype, generator=generator
            )
            self._down = torch.randn(shape.experts, shape.hidden, shape.width, dtype=self._dtype, generator=generator)
            self._map = self._expert_map(torch)

    def own_choice(self, tokens: int) -> Tile:
        """vLLM's, where there is no file."""
        from vllm.model_executor.layers.fused_moe.fused_moe import try_get_optimal_moe_config

        return dict(try_get_optimal_moe_config(self._gate_up.shape, self._down.shape, self._shape.top_k, None, tokens))

    def time_of(self, tile: Tile | None, tokens: int) -> float | None:
        """Seconds of one call; None for a tile that the GPU has no room for."""
        from vllm.model_executor.layers.fused_moe import override_config

        with override_config(tile or self.own_choice(tokens)):
            try:
                return self._measured(tokens)
            except Exception as error:
                if type(error).__name__ == "OutOfResources":  # triton's, whose module moves
                    return None
                raise

    def _measured(self, tokens: int) -> float:
        """In a CUDA graph, as vLLM runs it: launching would take longer than the kernel."""
        import torch

        call = self._call(tokens)
        call()  # compiles
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(CALLS_PER_GRAPH):
                call()
        graph.replay()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(REPLAYS):
            graph.replay()
        end.record()
        end.synchronize()
        elapsed_ms = float(begin.elapsed_time(end))
        graph.reset()
        return elapsed_ms / 1000 / (REPLAYS * CALLS_PER_GRAPH)

    def _call(self, tokens: int) -> Any:  # Any: of no arguments
        import torch
        from vllm.model_executor.layers.fused_moe import fused_experts

        shape = self._shape
        with torch.device("cuda"):
            hidden = torch.randn(tokens, shape.hidden, dtype=self._dtype, generator=self._generator)
            scores = torch.rand(tokens, shape.all_experts, dtype=torch.float32, generator=self._generator)
        weights, chosen = torch.topk(torch.softmax(scores, dim=-1), shape.top_k)
        spread: dict[str, Any] = {}  # Any: vLLM's arguments
        if self._map is not None:
            spread = {"global_num_experts": shape.all_experts, "expert_map": self._map}
        ids = chosen.to(torch.int32)
        return lambda: fused_experts(hidden, self._gate_up, self._down, weights, ids, **spread)

    def _expert_map(self, torch: Any) -> Any:  # Any: the module, and a tensor
        """Which of all experts this rank has, as vLLM is told; None where it has all."""
        shape = self._shape
        if shape.experts == shape.all_experts:
            return None
        numbers = torch.arange(shape.all_experts, dtype=torch.int32)
        return torch.where(numbers < shape.experts, numbers, torch.full_like(numbers, -1))
