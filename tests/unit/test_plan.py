"""Which ranks live and die together, and what each one is told and finds in its environment."""

import asyncio
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from app.errors import FatalError
from app.ranks import plan as planning
from app.ranks.model import ModelFacts, _facts
from app.ranks.plan import Plan, make_plan, make_spec, mismatch
from app.settings.declaration import Settings
from app.settings.limits import parameter_limits
from engines.contract.protocol import RankFacts
from engines.contract.spec import (
    EngineKind,
    GatewayAddress,
    GroupKind,
    LockstepAddress,
    RankSpec,
    Share,
    read_spec,
    write_spec,
)
from engines.host import ports
from engines.host.environment import environment
from engines.host.machine import Machine
from engines.host.rank_process import describe_exit

MOE, DENSE = "a mixture of experts", "a dense model"
LOCKSTEP, REPLICAS = GroupKind.LOCKSTEP, GroupKind.REPLICAS
ADDRESS = LockstepAddress(host="127.0.0.1", rpc_port=20001, master_port=20002)
BASE = {"HOME": "/root", "HF_TOKEN": "secret", "CUDA_VISIBLE_DEVICES": "4,5,6,7"}


def plan_of(*, is_moe: bool = True, dp_size: int = 2, device: str = "cuda", **settings: Any) -> Plan:
    return make_plan(Settings(**settings), ModelFacts("a/model", is_moe), device, dp_size)


def share_of(plan: Plan, rank: int) -> Share:
    return Share(gpus=(str(2 * rank), str(2 * rank + 1))) if plan.device == "cuda" else Share(cores=f"{rank}")


def variables(
    plan: Plan, share: Share | None = None, lockstep: LockstepAddress | None = None, **settings: Any
) -> dict[str, str]:
    needed = planning.variables(Settings(**settings), plan, share or share_of(plan, 1), lockstep)
    return environment(BASE, needed, Path("/run/x/1.1"))


def facts(**fields: Any) -> RankFacts:
    values: dict[str, Any] = {
        "engine": "played",
        "model": "a/model",
        "is_moe": True,
        "expert_parallel": True,
        "data_parallel_size": 2,
        "tensor_parallel_size": 1,
        "max_model_len": 100,
        "max_num_seqs": 4,
        "kv_cache_tokens": 0,
        "vocab_size": 10,
        "dtype": "none",
        "device": "cuda",
    }
    return RankFacts(**values | fields)


# ---------------------------------------------------------------- groups


@pytest.mark.parametrize(
    ("is_moe", "wanted", "dp_size", "kind", "expert_parallel"),
    [
        (True, True, 2, LOCKSTEP, True),
        (True, True, 8, LOCKSTEP, True),
        (True, True, 1, REPLICAS, True),  # the experts are spread over one rank's own workers
        (True, False, 2, REPLICAS, False),
        (True, False, 1, REPLICAS, False),
        (False, True, 2, REPLICAS, False),
        (False, False, 2, REPLICAS, False),
        (False, True, 1, REPLICAS, False),
    ],
)
def test_a_mixture_of_experts_that_is_spread_over_ranks_lives_in_lockstep(
    is_moe: bool, wanted: bool, dp_size: int, kind: GroupKind, expert_parallel: bool
) -> None:
    plan = plan_of(is_moe=is_moe, dp_size=dp_size, expert_parallel=wanted)
    assert (plan.group_kind, plan.expert_parallel, plan.dp_size) == (kind, expert_parallel, dp_size)
    groups = [plan.group_of(rank) for rank in range(dp_size)]
    assert groups == ([0] * dp_size if kind is LOCKSTEP else list(range(dp_size)))


@pytest.mark.parametrize(
    ("plan", "said", "complaint"),
    [
        (plan_of(), facts(), None),
        (plan_of(expert_parallel=False), facts(data_parallel_size=1), None),
        (plan_of(is_moe=False), facts(is_moe=False, data_parallel_size=1), None),
        (
            plan_of(),
            facts(is_moe=False),
            "takes the model for a dense model, its config.json says a mixture of experts",
        ),
        (
            plan_of(is_moe=False),
            facts(),
            "takes the model for a mixture of experts, its config.json says a dense model",
        ),
        (plan_of(), facts(data_parallel_size=1), "is one of 1 data-parallel ranks, not of 2"),
        (plan_of(expert_parallel=False), facts(), "is one of 2 data-parallel ranks, not of 1"),
    ],
)
def test_a_rank_that_is_not_what_was_planned_is_found_out(plan: Plan, said: RankFacts, complaint: str | None) -> None:
    found = mismatch(plan, said)
    assert found == (None if complaint is None else f"its engine {complaint}")


# ---------------------------------------------------------------- what a rank is told


def test_on_gpus_a_rank_sees_its_own_in_the_order_they_were_counted() -> None:
    told = variables(plan_of(device="cuda"))
    assert (told["CUDA_VISIBLE_DEVICES"], told["CUDA_DEVICE_ORDER"]) == ("2,3", "PCI_BUS_ID")
    assert (told["HF_TOKEN"], told["VLLM_RPC_BASE_PATH"], told["PYTHONUNBUFFERED"]) == ("secret", "/run/x/1.1", "1")
    assert not [name for name in told if name.startswith(("VLLM_CPU", "PHALANX_RANK_CPU", "VLLM_DP"))]
    assert BASE["CUDA_VISIBLE_DEVICES"] == "4,5,6,7"


def test_on_a_cpu_a_rank_has_its_cores_and_its_cache() -> None:
    told = variables(plan_of(device="cpu", is_moe=False), cpu_kv_cache_gib=3)
    assert (told["VLLM_CPU_KVCACHE_SPACE"], told["VLLM_CPU_OMP_THREADS_BIND"]) == ("3", "1")
    assert "PHALANX_RANK_CPU_EXPERT_PARALLEL" not in told
    assert told["CUDA_VISIBLE_DEVICES"] == "4,5,6,7"  # vLLM's CPU build does not look at it


def test_on_a_cpu_a_lockstep_group_gets_the_plugin() -> None:
    assert variables(plan_of(device="cpu"))["PHALANX_RANK_CPU_EXPERT_PARALLEL"] == "1"
    assert "PHALANX_RANK_CPU_EXPERT_PARALLEL" not in variables(plan_of(device="cpu", expert_parallel=False))
    assert "PHALANX_RANK_CPU_EXPERT_PARALLEL" not in variables(plan_of(device="cuda"))


def test_prompts_are_withheld_from_vllms_logs_unless_they_are_asked_for() -> None:
    assert variables(plan_of())["PHALANX_RANK_WITHHOLD_PROMPTS"] == "1"
    assert "PHALANX_RANK_WITHHOLD_PROMPTS" not in variables(plan_of(), log_prompts=True)
    assert "PHALANX_RANK_WITHHOLD_PROMPTS" not in variables(plan_of(), engine="simulated")


@pytest.mark.parametrize(
    ("chosen", "taken"),
    [
        ("theirs", "theirs,phalanx_cpu_expert_parallel,phalanx_withhold_prompts"),
        ("", "phalanx_cpu_expert_parallel,phalanx_withhold_prompts"),
    ],
)
def test_an_operators_choice_of_vllms_plugins_keeps_those_a_rank_needs(chosen: str, taken: str) -> None:
    needed = planning.variables(Settings(), plan_of(device="cpu"), Share(cores="0"), None)
    told = environment(BASE | {"VLLM_PLUGINS": chosen}, needed, Path("/run/x/0.1"))
    assert told["VLLM_PLUGINS"] == taken
    assert "VLLM_PLUGINS" not in variables(plan_of(device="cpu"))


def test_plugins_are_called_what_the_package_calls_them() -> None:
    names = {entry.name for entry in entry_points(group="vllm.general_plugins")}
    assert {planning.CPU_PLUGIN, planning.WITHHOLDING_PLUGIN} <= names


def test_a_rank_that_got_no_cores_binds_none() -> None:
    plan = make_plan(Settings(), ModelFacts("m", is_moe=False), "cpu", 1)
    assert "VLLM_CPU_OMP_THREADS_BIND" not in variables(plan, Share())


def test_a_simulated_rank_is_told_nothing_of_vllms() -> None:
    told = variables(plan_of(device="cpu"), engine="simulated")
    assert not [name for name in told if name.startswith("VLLM_CPU")]


def test_a_lockstep_group_is_told_where_to_meet() -> None:
    told = variables(plan_of(), lockstep=ADDRESS)
    assert (told["VLLM_DP_MASTER_IP"], told["VLLM_DP_MASTER_PORT"]) == ("127.0.0.1", "20002")


def test_a_rank_reads_what_the_gateway_wrote(tmp_path: Path) -> None:
    settings = Settings(
        model="a/model",
        tp_size=2,
        max_num_seqs=8,
        engine_args={"block_size": 32},
        extra_args=["--x"],
        stop_timeout_s=3,
        log_format="json",
        log_prompts=True,
        otlp_traces_endpoint="http://collector:4318",
        structure_cpu_s=7,
        max_n=9,
        max_list_length=10,
    )
    address = GatewayAddress("tcp://10.0.0.1:7000", "rank-1.4.7", epoch=7)
    spec = make_spec(settings, plan_of(), 1, 4, address, share_of(plan_of(), 1), ADDRESS)
    write_spec(spec, tmp_path / "rank.json")
    assert read_spec(tmp_path / "rank.json") == spec
    assert spec == RankSpec(
        rank=1,
        incarnation=4,
        dp_size=2,
        tp_size=2,
        engine=EngineKind.VLLM,
        group_kind=LOCKSTEP,
        expert_parallel=True,
        model="a/model",
        served_as="a/model",
        endpoint="tcp://10.0.0.1:7000",
        identity="rank-1.4.7",
        epoch=7,
        device="cuda",
        gpus=["2", "3"],
        lockstep=ADDRESS,
        engine_args={"max_num_seqs": 8, "block_size": 32},
        extra_args=["--x"],
        stop_timeout_s=3,
        log_format="json",
        log_prompts=True,
        otlp_traces_endpoint="http://collector:4318/v1/traces",
        limits=parameter_limits(settings),
        structure_cpu_s=7,
    )
    assert (spec.limits.max_n, spec.limits.max_list_length) == (9, 10)
    assert (spec.title, spec.guardian_title) == ("phalanx-rank 1", "phalanx-guardian 1")


def test_every_life_of_a_group_meets_at_consecutive_ports_that_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {20005, 20016}
    tried = iter([20000, 20006, 20017])
    monkeypatch.setattr(ports.random, "randrange", lambda *_: next(tried))
    monkeypatch.setattr(ports, "_is_free", lambda port: port not in taken)
    met = asyncio.run(Machine({}, Path("/none"), Path("/none"), "10.0.0.1").lockstep_address())
    assert met == LockstepAddress(host="10.0.0.1", rpc_port=20017, master_port=20018)


# ---------------------------------------------------------------- what children answer


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "its process ended with exit code 0"),
        (1, "its process ended with exit code 1"),
        (128, "its process ended with exit code 128"),
        (137, "its process was ended by SIGKILL"),
        (139, "its process was ended by SIGSEGV"),
        (143, "its process was ended by SIGTERM"),
        (250, "its process ended with exit code 250"),
        (-9, "its guardian was ended by SIGKILL"),
        (-200, "its guardian was ended by signal 200"),
    ],
)
def test_an_exit_code_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words


def test_what_the_model_is() -> None:
    answer = b'{"model":"/m","is_moe":true,"num_experts":8,"architecture":"X","max_position_embeddings":null}'
    expected = ModelFacts("/m", is_moe=True, num_experts=8, architecture="X")
    assert _facts("m", answer, b"") == expected
    assert _facts("m", b"a library's greeting\n\n" + answer + b"\n", b"warnings\n") == expected


@pytest.mark.parametrize(
    ("output", "errors", "message", "exit_code"),
    [
        (b'{"error":"m is gated: accept its licence"}', b"Traceback", "m is gated: accept its licence", 2),
        (b"", b"Traceback\n\nMemoryError: no\n\n", "model 'm' could not be looked at: MemoryError: no", 1),
        (b"not JSON", b" \n", "model 'm' could not be looked at: it said nothing", 1),
        (b'{"model":"/m"}', b"odd \xff", "model 'm' could not be looked at: odd \N{REPLACEMENT CHARACTER}", 1),
        (b"[1]", b"", "model 'm' could not be looked at: it said nothing", 1),
    ],
)
def test_a_model_that_cannot_be_used(output: bytes, errors: bytes, message: str, exit_code: int) -> None:
    with pytest.raises(FatalError) as raised:
        _facts("m", output, errors)
    assert (str(raised.value), raised.value.exit_code) == (message, exit_code)
