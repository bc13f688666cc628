"""A vLLM plugin: expert parallelism across data-parallel ranks on a CPU, which vLLM ships half done.

Three things are missing there: gathers and reductions over ranks with different numbers of tokens, CPU kernels that
know which experts are theirs, and an operator that keeps torch.compile out of both. vLLM loads this in every one of its
processes; it does nothing unless the rank's launcher set PHALANX_RANK_CPU_EXPERT_PARALLEL=1.
"""

import functools
import inspect
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

VARIABLE = "PHALANX_RANK_CPU_EXPERT_PARALLEL"
MARK = "mended_by_phalanx"
WHERE = "expert parallelism across ranks on a CPU"
REMEDY = "turn expert parallelism off"

Method = Callable[..., Any]  # a method of vLLM's, which is untyped here


def register() -> None:
    """vLLM's entry point. May be called more than once in a process."""
    if os.environ.get(VARIABLE) != "1":
        return
    try:
        _mend_communicator()
        _mend_experts()
        _mend_compilation()
    except (ImportError, AttributeError) as error:
        raise RuntimeError(
            f"{WHERE} needs vLLM 0.28 to 0.33, and this one lacks what they have ({error}): install one, or {REMEDY}"
        ) from error


# ---------------------------------------------------------------- collectives


def _mend_communicator() -> None:
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

    _ = CpuCommunicator.all_gather, CpuCommunicator.all_reduce  # what ours are made of
    for name, method in (("all_gatherv", _all_gatherv), ("reduce_scatterv", _reduce_scatterv)):
        if name not in vars(CpuCommunicator):  # a release that has its own keeps it
            setattr(CpuCommunicator, name, method)


def _all_gatherv(
    self: Any,  # Any: vLLM's CpuCommunicator
    input_: "Tensor | list[Tensor]",
    dim: int = 0,
    sizes: list[int] | None = None,
) -> "Tensor | list[Tensor]":
    """Concatenates the ranks' rows, `sizes[rank]` of each; a list of tensors gives a list."""
    import torch

    if dim != 0:
        raise NotImplementedError(f"gathering along dimension {dim}: only 0 is supported on a CPU")
    if not isinstance(input_, torch.Tensor):
        return [_all_gatherv(self, tensor, dim, sizes) for tensor in input_]
    if sizes is None or len(set(sizes)) == 1:
        return self.all_gather(input_.contiguous(), dim=0)
    longest = max(sizes)
    padded = input_.new_zeros((longest, *input_.shape[1:]))
    padded[: input_.shape[0]] = input_
    parts = self.all_gather(padded, dim=0).split(longest)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def _reduce_scatterv(self: Any, input_: "Tensor", dim: int = -1, sizes: list[int] | None = None) -> "Tensor":
    """The sum over the ranks, of which this rank keeps its own `sizes[rank]` rows."""
    if dim not in (0, -input_.dim()):
        raise NotImplementedError(f"reducing along dimension {dim}: only 0 is supported on a CPU")
    if sizes is None:
        sizes = [input_.shape[0] // self.world_size] * self.world_size
    first = sum(sizes[: self.rank_in_group])
    total = self.all_reduce(input_.clone())  # it reduces in place, and the input is a workspace of vLLM's
    return total[first : first + sizes[self.rank_in_group]]


# ---------------------------------------------------------------- experts


def _mend_experts() -> None:
    from vllm.model_executor.layers.fused_moe.experts import cpu_moe

    unquantized = cpu_moe.CPUUnquantizedExperts
    for kernel in vars(cpu_moe).values():
        if not isinstance(kernel, type) or kernel.__module__ != cpu_moe.__name__ or "apply" not in vars(kernel):
            continue
        if not issubclass(kernel, unquantized):
            _replace(kernel, "apply", _refusing)
        elif "topk_ids" in inspect.signature(vars(kernel)["apply"]).parameters:
            _replace(kernel, "apply", _with_local_experts)
        else:  # 0.28 and 0.29 choose the experts inside
            _replace(kernel, "apply", _remembering_map)
            _replace(kernel, "_select_experts", _choosing_local_experts)


def _mend_compilation() -> None:
    """Hides the experts from torch.compile behind vLLM's own operator, as on a GPU.

    On a CPU vLLM lets it trace them, and how many rows each rank has is no constant that it could compile in.
    """
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner

    _replace(MoERunner, "_select_forward", _opaque)


def _opaque(_: Method) -> Method:
    def mended(self: Any) -> Any:
        import torch

        operators = torch.ops.vllm
        return operators.moe_forward if self._shared_experts is None else operators.moe_forward_shared

    return mended


def _replace(kernel: Any, name: str, wrapper: Callable[[Method], Method]) -> None:  # Any: a class of vLLM's
    method = getattr(kernel, name)
    if not hasattr(method, MARK):
        mended = functools.wraps(method)(wrapper(method))
        setattr(mended, MARK, True)
        setattr(kernel, name, mended)


def _with_local_experts(apply: Method) -> Method:
    bind = _binder(apply, "topk_weights", "topk_ids", "expert_map", "apply_router_weight_on_input")

    def mended(self: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = bind(args, kwargs)
        expert_map = arguments["expert_map"]
        if expert_map is not None:
            if arguments["apply_router_weight_on_input"]:
                raise NotImplementedError(f"{WHERE} cannot run a model that weighs the inputs of its experts: {REMEDY}")
            weights, ids = _to_local(arguments["topk_weights"], arguments["topk_ids"], expert_map)
            arguments |= {"topk_weights": weights, "topk_ids": ids}
        return apply(self, **arguments)

    return mended


def _remembering_map(apply: Method) -> Method:
    bind = _binder(apply, "expert_map", "apply_router_weight_on_input")

    def mended(self: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = bind(args, kwargs)
        self.phalanx_expert_map = arguments["expert_map"]
        if self.phalanx_expert_map is not None and arguments["apply_router_weight_on_input"]:
            raise NotImplementedError(f"{WHERE} cannot run a model that weighs the inputs of its experts: {REMEDY}")
        return apply(self, **arguments)

    return mended


def _choosing_local_experts(select: Method) -> Method:
    def mended(self: Any, *args: Any, **kwargs: Any) -> Any:
        weights, ids = select(self, *args, **kwargs)
        expert_map = self.phalanx_expert_map
        return (weights, ids) if expert_map is None else _to_local(weights, ids, expert_map)

    return mended


def _refusing(apply: Method) -> Method:
    bind = _binder(apply, "expert_map")

    def mended(self: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = bind(args, kwargs)
        if arguments["expert_map"] is not None:
            raise NotImplementedError(f"{WHERE} does not work with quantised experts ({type(self).__name__}): {REMEDY}")
        return apply(self, **arguments)

    return mended


def _to_local(weights: "Tensor", ids: "Tensor", expert_map: "Tensor") -> "tuple[Tensor, Tensor]":
    """Weights and ids as this rank's kernel wants them: an expert of another rank becomes expert 0 with weight 0."""
    local = expert_map[ids.long()]
    foreign = local < 0
    return weights.masked_fill(foreign, 0), local.masked_fill(foreign, 0).to(ids.dtype)


def _binder(method: Method, *needed: str) -> Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any]]:
    """How the method's arguments are put together by name. AttributeError when it lacks one that is needed."""
    _, *names = inspect.signature(method).parameters
    for name in needed:
        if name not in names:
            raise AttributeError(f"{method.__qualname__} has no argument {name!r}")
    return lambda args, kwargs: dict(zip(names, args, strict=False)) | kwargs
