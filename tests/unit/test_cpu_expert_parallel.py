"""The plugin for expert parallelism on a CPU: what it does to tensors, and what it refuses."""

from typing import Any

import pytest

from engines.vllm_engine import cpu_expert_parallel as plugin

torch = pytest.importorskip("torch")


class Communicator:
    """Stands in for vLLM's CpuCommunicator on rank 1 of 2: it holds what rank 0 would send."""

    world_size = 2
    rank_in_group = 1

    def __init__(self, other: Any) -> None:
        self.other = other

    def all_gather(self, mine: Any, dim: int) -> Any:
        padded = mine.new_zeros(mine.shape)
        padded[: self.other.shape[0]] = self.other
        return torch.cat([padded, mine], dim=dim)

    def all_reduce(self, mine: Any) -> Any:
        return mine.add_(self.other)


def rows(*values: float) -> Any:
    return torch.tensor(values).unsqueeze(1).expand(-1, 3).contiguous()


@pytest.mark.parametrize(("theirs", "mine"), [((1.0, 2.0), (3.0, 4.0)), ((1.0, 2.0, 3.0), (4.0,)), ((), (5.0,))])
def test_ranks_with_different_numbers_of_rows_are_gathered(theirs: tuple[float, ...], mine: tuple[float, ...]) -> None:
    communicator = Communicator(rows(*theirs))
    sizes = [len(theirs), len(mine)]
    gathered = plugin._all_gatherv(communicator, rows(*mine), sizes=sizes)
    assert gathered.tolist() == rows(*theirs, *mine).tolist()
    (again,) = plugin._all_gatherv(communicator, [rows(*mine)], sizes=sizes)
    assert again.tolist() == gathered.tolist()


def test_a_reduction_gives_each_rank_its_own_rows_and_leaves_the_input_alone() -> None:
    mine = rows(1.0, 2.0, 3.0)
    communicator = Communicator(rows(10.0, 20.0, 30.0))
    assert plugin._reduce_scatterv(communicator, mine, dim=0, sizes=[1, 2]).tolist() == rows(22.0, 33.0).tolist()
    assert mine.tolist() == rows(1.0, 2.0, 3.0).tolist()


class Kernel:
    """A kernel with the arguments of vLLM's; it hands back what it was given."""

    def apply(
        self, topk_weights: Any, topk_ids: Any, expert_map: Any, apply_router_weight_on_input: bool
    ) -> tuple[Any, Any]:
        return topk_weights.tolist(), topk_ids.tolist()


WEIGHTS = [[0.75, 0.25], [0.5, 0.5]]
IDS = [[3, 0], [2, 1]]
MAP = [-1, -1, 0, 1]  # the global experts 2 and 3 are this rank's 0 and 1


def call(kernel: Any, expert_map: list[int] | None, weigh_input: bool = False) -> Any:
    return kernel.apply(
        topk_weights=torch.tensor(WEIGHTS),
        topk_ids=torch.tensor(IDS, dtype=torch.int32),
        expert_map=None if expert_map is None else torch.tensor(expert_map, dtype=torch.int32),
        apply_router_weight_on_input=weigh_input,
    )


def mended(wrapper: Any) -> Any:
    kernel = type("Mended", (Kernel,), {})
    plugin._replace(kernel, "apply", wrapper)
    once = kernel.apply
    plugin._replace(kernel, "apply", wrapper)
    assert kernel.apply is once, "it was mended twice"
    return kernel()


def test_experts_of_other_ranks_become_expert_0_with_weight_0() -> None:
    kernel = mended(plugin._with_local_experts)
    assert call(kernel, MAP) == ([[0.75, 0.0], [0.5, 0.0]], [[1, 0], [0, 0]])
    assert call(kernel, None) == (WEIGHTS, IDS)


@pytest.mark.parametrize("wrapper", [plugin._with_local_experts, plugin._remembering_map])
def test_a_model_that_weighs_its_experts_inputs_is_refused(wrapper: Any) -> None:
    with pytest.raises(NotImplementedError, match="turn expert parallelism off"):
        call(mended(wrapper), MAP, weigh_input=True)


@pytest.mark.parametrize("collective", [plugin._all_gatherv, plugin._reduce_scatterv])
def test_another_dimension_than_the_first_is_refused(collective: Any) -> None:
    with pytest.raises(NotImplementedError, match="along dimension 1: only 0 is supported"):
        collective(None, torch.zeros(2, 2), dim=1)


def test_quantised_experts_are_refused_rather_than_left_to_crash() -> None:
    kernel = mended(plugin._refusing)
    assert call(kernel, None) == (WEIGHTS, IDS)
    with pytest.raises(NotImplementedError, match=r"quantised experts \(Mended\): turn expert parallelism off"):
        call(kernel, MAP)


def test_a_kernel_without_the_expected_arguments_is_not_touched() -> None:
    class Other:
        def apply(self, tokens: Any) -> None:
            return None

    with pytest.raises(AttributeError, match="has no argument 'expert_map'"):
        plugin._replace(Other, "apply", plugin._refusing)


def test_without_the_launchers_variable_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> None:
        raise AssertionError("it touched vLLM")

    monkeypatch.delenv(plugin.VARIABLE, raising=False)
    monkeypatch.setattr(plugin, "_mend_communicator", never)
    plugin.register()


def test_another_vllm_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise AttributeError("no CPUUnquantizedExperts")

    monkeypatch.setenv(plugin.VARIABLE, "1")
    monkeypatch.setattr(plugin, "_mend_communicator", missing)
    with pytest.raises(RuntimeError, match=r"needs vLLM 0\.28 to 0\.33.*no CPUUnquantizedExperts"):
        plugin.register()
