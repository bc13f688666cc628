"""Ranks that share a GPU: who gets which, what does not go with it, and what each is told of its part."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from rank_specs import rank_spec

from app.ranks import devices, tuned
from app.ranks.devices import Allotment, DeviceError, Gpu, allot
from app.ranks.model import ModelFacts
from app.ranks.plan import figures, make_plan, make_spec
from app.settings.checks import contradictions
from app.settings.declaration import Settings
from engines.contract.spec import GatewayAddress, GroupKind
from engines.contract.tuned import Tuned, tuned_file
from engines.rank.engine import EngineConfigError
from engines.vllm_engine import compat, configuring
from engines.vllm_engine.arguments import engine_arguments
from engines.vllm_engine.batch_defaults import GIB, WORKING_BYTES
from engines.vllm_engine.weights import Weights

ADMINS_OWN = {"CUDA_MPS_PIPE_DIRECTORY": "/var/mps"}
TWO = [Gpu(0, "GPU-aaaa-1", "H200"), Gpu(1, "GPU-bbbb-2", "H200")]


def allotted(
    monkeypatch: pytest.MonkeyPatch, gpus: list[Gpu], environ: dict[str, str] = ADMINS_OWN, **settings: Any
) -> Allotment:
    monkeypatch.setattr(devices, "_has_cpu_build", lambda: False)
    monkeypatch.setattr(devices, "read_gpus", lambda: gpus)
    return allot(Settings(**settings), environ)


def test_each_gpu_has_as_many_ranks_as_it_shall_and_few_items_reach_all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    found = allotted(monkeypatch, TWO, ranks_per_gpu=3)
    assert [share.gpus for share in found.shares] == [("0",), ("1",)] * 3
    assert {share.ranks_per_gpu for share in found.shares} == {3}
    assert found.machine == "H200, 3 ranks each", "what was tuned for one rank of it is not for three"
    assert allotted(monkeypatch, TWO).machine == "H200"


def test_ranks_that_may_be_added_share_the_gpus_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    found = allotted(monkeypatch, TWO, ranks_per_gpu=2, dp_size=2)
    assert [share.gpus for share in found.shares] == [("0",), ("0",)]
    assert [share.gpus for share in found.spare] == [("1",), ("1",)]


def test_a_machine_that_cannot_is_told_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere = {"PATH": str(tmp_path)}
    with pytest.raises(DeviceError, match=r"nvidia-cuda-mps-control.* is not on the PATH: .*--no-mps"):
        allotted(monkeypatch, TWO, nowhere, ranks_per_gpu=2)
    assert len(allotted(monkeypatch, TWO, nowhere, ranks_per_gpu=2, mps=False).shares) == 4
    assert len(allotted(monkeypatch, TWO, nowhere | ADMINS_OWN, ranks_per_gpu=2).shares) == 4
    with pytest.raises(DeviceError, match="MIG"):
        allotted(monkeypatch, [Gpu(0, "GPU-a", "A100", ("MIG-1",))], ranks_per_gpu=2)
    with pytest.raises(DeviceError, match=r"--ranks-per-gpu .* is 2, and there is no GPU"):
        allotted(monkeypatch, [], ranks_per_gpu=2)
    with pytest.raises(DeviceError, match="needs 3 GPUs, 2 are visible"):
        allotted(monkeypatch, TWO, ranks_per_gpu=2, dp_size=6)


def test_what_was_tuned_multiplies_the_ranks_that_were_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def served(environ: dict[str, str] = ADMINS_OWN, **given: Any) -> tuple[Settings, Allotment, tuned.Taken]:
        settings = Settings(**{"model": "hub/model", "dp_size": 2, "tuned_dir": tmp_path} | given)
        return tuned.take_tuned(settings, allotted(monkeypatch, TWO, environ, **given), environ | {"HOME": "/none"})

    found = Tuned(
        site=tuned.site_of(Settings(model="hub/model"), "H200", 2),
        candidate="2 ranks a GPU",
        ranks_per_gpu=2,
        workload="",
        measured_at="",
        tokens_per_s=2.0,
        baseline_tokens_per_s=1.0,
    )
    tuned_file(tmp_path, found.site).write_bytes(msgspec.json.encode(found))
    settings, allotment, taken = served()
    assert (settings.dp_size, settings.ranks_per_gpu, taken.ranks_per_gpu) == (4, 2, 2)
    assert [share.gpus for share in allotment.shares] == [("0",), ("1",)] * 2
    plan = make_plan(settings, ModelFacts("hub/model", is_moe=True), "cuda", 4, taken)
    assert (plan.group_kind, plan.expert_parallel) == (GroupKind.REPLICAS, False)
    for given in ({"ranks_per_gpu": 1}, {"expert_parallel": True}, {"tuned": False}):
        settings, allotment, taken = served(**given)
        assert (settings.dp_size, settings.ranks_per_gpu, taken.ranks_per_gpu) == (2, 1, None), given
        assert len(allotment.shares) == 2
    settings, allotment, taken = served({"PATH": str(tmp_path)})  # and there is no MPS here
    assert (settings.ranks_per_gpu, len(allotment.shares), taken.ranks_per_gpu) == (1, 2, None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tp_size": 2}, "--tp-size (PHALANX_TP_SIZE) is 2"),
        ({"expert_parallel": True}, "--expert-parallel (PHALANX_EXPERT_PARALLEL) is set"),
        ({"launcher": "ray", "dp_size": 2}, "--launcher (PHALANX_LAUNCHER) is ray"),
        ({"engine": "simulated", "dp_size": 2}, "--engine (PHALANX_ENGINE) is simulated"),
        ({"ranks_per_gpu": 1, "mps": False}, "--mps (PHALANX_MPS) is no"),
        ({"device": "cpu"}, "--device (PHALANX_DEVICE) is cpu"),
        ({"dp_size": 3}, "is 3: with --ranks-per-gpu (PHALANX_RANKS_PER_GPU) is 2 it must be divisible by 2"),
        ({"gpu_memory_utilization": 0.9}, "is 0.9, of each rank"),
        ({"engine_args": {"gpu_memory_utilization": 0.51}}, "at most 0.50 fits"),
    ],
)
def test_what_does_not_go_with_it_is_said(given: dict[str, Any], said: str) -> None:
    (problem,) = contradictions(Settings(**{"ranks_per_gpu": 2} | given))
    assert said in problem


def test_what_goes_with_it_is_taken() -> None:
    assert not list(contradictions(Settings(ranks_per_gpu=2, dp_size=4, gpu_memory_utilization=0.5)))
    assert not list(contradictions(Settings(ranks_per_gpu=2, expert_parallel=False)))


def test_they_are_replicas_and_told_how_many_they_are() -> None:
    settings = Settings(ranks_per_gpu=2)
    plan = make_plan(settings, ModelFacts("a/model", is_moe=True), "cuda", 4)
    assert (plan.group_kind, plan.expert_parallel) == (GroupKind.REPLICAS, False)
    assert figures(settings, plan)["reason"] == "ranks that share a GPU each have all experts"
    share = devices.Share(gpus=("1",), ranks_per_gpu=2)
    spec = make_spec(settings, plan, 3, 1, GatewayAddress("ipc:///x", "", 1), share, None)
    assert (spec.gpus, spec.ranks_per_gpu, spec.mps) == (["1"], 2, True)
    alone = make_spec(Settings(), plan, 3, 1, GatewayAddress("ipc:///x", "", 1), devices.Share(gpus=("1",)), None)
    assert (alone.ranks_per_gpu, alone.mps) == (1, False)
    turns = make_spec(Settings(ranks_per_gpu=2, mps=False), plan, 3, 1, GatewayAddress("ipc:///x", "", 1), share, None)
    assert not turns.mps


def test_memory_is_divided_unless_it_was_given() -> None:
    def utilization(**given: Any) -> object:
        spec = rank_spec(device="cuda", ranks_per_gpu=3, engine_args=given)
        return engine_arguments(spec).get("gpu_memory_utilization")

    assert utilization() == 0.3
    assert utilization(gpu_memory_utilization=0.25) == 0.25
    assert "gpu_memory_utilization" not in engine_arguments(rank_spec(device="cuda"))


def test_the_cache_of_each_is_what_its_part_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    config: Any = SimpleNamespace(
        cache_config=SimpleNamespace(gpu_memory_utilization=0.45, kv_cache_memory_bytes=None),
        model_config=None,
        parallel_config=SimpleNamespace(
            tensor_parallel_size=1, pipeline_parallel_size=1, data_parallel_size=1, enable_expert_parallel=False
        ),
    )
    spec = rank_spec(device="cuda", ranks_per_gpu=2)
    monkeypatch.setattr(compat, "gpu_bytes", lambda: 80 * GIB)
    assert configuring._part_of_cache(spec, config, Weights(6 * GIB, GIB)) == 36 * GIB - 7 * GIB - WORKING_BYTES
    with pytest.raises(EngineConfigError, match=r"45% of its memory does not hold one of them: 40.0 GiB of weights"):
        configuring._part_of_cache(spec, config, Weights(0, 40 * GIB))
    with pytest.raises(EngineConfigError, match="kv_cache_memory_bytes in --engine-args"):
        configuring._part_of_cache(spec, config, None)


def test_caches_that_do_not_all_lie_on_the_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config: Any = SimpleNamespace(
        model_config=None,
        parallel_config=SimpleNamespace(
            tensor_parallel_size=1, pipeline_parallel_size=1, data_parallel_size=1, enable_expert_parallel=False
        ),
    )
    monkeypatch.setattr(compat, "gpu_bytes", lambda: 140 * GIB)
    weights = Weights(6 * GIB, 0)
    configuring._check_room(rank_spec(device="cuda", ranks_per_gpu=4), config, weights, 29 * GIB)
    with pytest.raises(EngineConfigError, match=r"4 ranks share a GPU of 140.0 GiB, .* they need 156.0 GiB: lower one"):
        configuring._check_room(rank_spec(device="cuda", ranks_per_gpu=4), config, weights, 33 * GIB)


def test_this_machine_has_no_mps_of_its_own() -> None:
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ, "an administrator's MPS would be used by these tests"
