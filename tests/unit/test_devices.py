"""Who gets which GPU or core, on machines made up of plain facts."""

import platform
from pathlib import Path

import pytest

from app.ranks import devices
from app.ranks.cores import cpu_name, cpu_shares
from app.ranks.devices import DeviceError, Devices, Gpu, allot, assign, visible
from app.settings.declaration import Settings
from engines.contract.spec import EngineKind

TWO = [Gpu(0, "GPU-aaaa-1", "H200"), Gpu(1, "GPU-bbbb-2", "H200")]
FOUR = [*TWO, Gpu(2, "GPU-cccc-3", "H200"), Gpu(3, "GPU-ccdd-4", "H200")]
MIG = [Gpu(0, "GPU-aaaa-1", "A100", ("MIG-1", "MIG-2")), Gpu(1, "GPU-bbbb-2", "A100", ())]


def tokens(gpus: list[Gpu], restriction: str | None) -> tuple[str, ...]:
    return visible(gpus, {} if restriction is None else {"CUDA_VISIBLE_DEVICES": restriction}).tokens


@pytest.mark.parametrize(
    ("restriction", "expected"),
    [
        (None, ("0", "1", "2", "3")),
        ("2,0", ("2", "0")),
        (" 1 , 3", ("1", "3")),
        ("GPU-bbbb-2,GPU-aaaa-1", ("1", "0")),
        ("GPU-bb", ("1",)),
        ("", ()),
        ("-1", ()),
        ("-1,0", ()),
        ("NoDevFiles", ()),
        ("0,-1,1", ("0",)),
        ("1,9,0", ("1",)),
        ("1,GPU-aaaa-1", ("1",)),
        ("GPU-aaaa-1,GPU-cc", ("0",)),
    ],
)
def test_a_restriction_is_read_as_cuda_reads_it(restriction: str | None, expected: tuple[str, ...]) -> None:
    assert tokens(FOUR, restriction) == expected


@pytest.mark.parametrize("restriction", ["7", "GPU-zzzz", "GPU-cc", "0,0", "GPU-aaaa-1,GPU-aa", "x"])
def test_a_restriction_with_which_cuda_sees_nothing_is_refused_where_there_are_gpus(restriction: str) -> None:
    with pytest.raises(DeviceError, match=f"CUDA_VISIBLE_DEVICES is {restriction}: .*there are 4"):
        tokens(FOUR, restriction)
    assert tokens([], restriction) == ()


def test_what_cuda_ignores_is_said() -> None:
    (doubt,) = visible(TWO, {"CUDA_VISIBLE_DEVICES": "1,9,0"}).warnings
    assert doubt == "CUDA_VISIBLE_DEVICES is 1,9,0: CUDA ignores what stands from '9' on"
    assert visible(TWO, {"CUDA_VISIBLE_DEVICES": "1,0"}).warnings == ()


def test_the_order_of_unlike_gpus_is_said() -> None:
    unlike = [Gpu(0, "GPU-aaaa-1", "T4"), Gpu(1, "GPU-bbbb-2", "H200")]
    assert "nvidia-smi" in visible(unlike, {"CUDA_VISIBLE_DEVICES": "0"}).warnings[0]
    assert visible(unlike, {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}).warnings == ()
    assert visible(unlike, {"CUDA_VISIBLE_DEVICES": "GPU-aaaa-1"}).warnings == ()


def test_mig_instances_keep_their_ids_and_work_alone() -> None:
    assert tokens(MIG, None) == ("MIG-1", "MIG-2")
    assert tokens(MIG, "MIG-2") == ("MIG-2",)
    assert tokens(MIG, "0") == ("MIG-1",)
    assert assign(visible(MIG, {}), 2, 1) == [("MIG-1",), ("MIG-2",)]
    with pytest.raises(DeviceError, match="MIG instances cannot work together"):
        assign(visible(MIG, {}), 1, 2)


def test_a_rank_gets_neighbours() -> None:
    assert assign(visible(FOUR, {}), 2, 2) == [("0", "1"), ("2", "3")]
    assert assign(visible(FOUR, {"CUDA_VISIBLE_DEVICES": "3,1,0"}), 3, 1) == [("3",), ("1",), ("0",)]


def test_too_few_gpus_are_said_with_the_reason() -> None:
    with pytest.raises(DeviceError) as raised:
        assign(visible(FOUR, {"CUDA_VISIBLE_DEVICES": "0,1"}), 4, 2)
    assert str(raised.value) == (
        "dp_size 4 x tp_size 2 needs 8 GPUs, 2 are visible (CUDA_VISIBLE_DEVICES=0,1): "
        "lower --dp-size or --tp-size, or make more visible"
    )
    with pytest.raises(DeviceError, match="needs 2 GPUs, 1 is visible:"):
        assign(Devices(("0",)), 2, 1)


@pytest.mark.parametrize(
    ("cores", "dp_size", "tp_size", "expected"),
    [
        ([0, 1], 2, 1, ["0", "1"]),
        (list(range(8)), 2, 1, ["0-3", "4-7"]),
        (list(range(8)), 2, 2, ["0-1|2-3", "4-5|6-7"]),
        ([0, 2, 3, 7], 1, 1, ["0,2-3,7"]),
        (list(range(7)), 2, 1, ["0-2", "3-6"]),
        ([3], 2, 1, ["3", "3"]),
        ([0, 1], 3, 1, ["0", "1", "0"]),
        ([0, 1], 2, 2, ["0|1", "0|1"]),
    ],
)
def test_cores_are_shared_out_in_neighbouring_portions(
    cores: list[int], dp_size: int, tp_size: int, expected: list[str]
) -> None:
    assert cpu_shares(cores, dp_size, tp_size) == expected


def test_two_ranks_is_the_default_without_gpus() -> None:
    allotment = allot(Settings(device="cpu"), {})
    assert (allotment.device, len(allotment.shares)) == ("cpu", 2)
    assert all(share.cores and not share.gpus for share in allotment.shares)


def test_simulated_ranks_need_neither_gpus_nor_cores() -> None:
    allotment = allot(Settings(engine=EngineKind.SIMULATED, dp_size=3), {})
    assert [share.cores for share in allotment.shares] == [None, None, None]


def test_scarce_cores_are_said() -> None:
    (warning,) = allot(Settings(device="cpu", dp_size=4096), {}).warnings
    assert warning.startswith("dp_size 4096 x tp_size 1 is 4096 workers, which share")


def test_the_operators_own_binding_is_dealt_out() -> None:
    def cores(binding: str) -> list[str | None]:
        allotment = allot(Settings(device="cpu", tp_size=2), {"VLLM_CPU_OMP_THREADS_BIND": binding})
        return [share.cores for share in allotment.shares]

    assert cores("0-1|2-3|4|5") == ["0-1|2-3", "4|5"]
    assert cores("nobind") == ["nobind", "nobind"]
    with pytest.raises(DeviceError, match="names cores for 2 workers"):
        cores("0-1|2-3")


def test_the_build_for_cpus_leaves_gpus_alone_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_has_cpu_build", lambda: True)
    monkeypatch.setattr(devices, "_device_files", lambda: ["/dev/nvidia0"])
    monkeypatch.setattr(devices, "read_gpus", lambda: [Gpu(0, "GPU-0", "H200")])
    found = allot(Settings(), {})
    assert found.device == "cpu"
    assert any("they stay idle" in warning for warning in found.warnings)
    with pytest.raises(DeviceError, match="its build for CPUs"):
        allot(Settings(device="cuda"), {})
    monkeypatch.setattr(devices, "_has_cpu_build", lambda: False)
    assert allot(Settings(), {}).device == "cuda"


def test_the_machine_is_named_by_what_its_speed_depends_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "_has_cpu_build", lambda: False)
    monkeypatch.setattr(devices, "read_gpus", lambda: [Gpu(0, "GPU-a", "T4"), Gpu(1, "GPU-b", "H200")])
    assert allot(Settings(dp_size=1), {}).machine == "T4"
    assert allot(Settings(dp_size=1), {"CUDA_VISIBLE_DEVICES": "GPU-b"}).machine == "H200"
    assert allot(Settings(dp_size=2), {}).machine == "H200 + T4"
    assert allot(Settings(engine="simulated"), {}).machine == "simulated"
    assert allot(Settings(device="cpu"), {}).machine.startswith(f"CPU {cpu_name()}, ")
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: AMD EPYC 9654\n\nmodel name\t: AMD EPYC 9654\n")
    assert cpu_name(info) == "AMD EPYC 9654"
    assert cpu_name(tmp_path / "none") == platform.machine()
