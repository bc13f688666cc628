"""What `phalanx tune` has kept: for whom it holds, what of it is taken, and files that do not serve."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.ranks import tuned as tuning
from app.ranks.devices import Gpu
from app.ranks.model import ModelFacts
from app.ranks.plan import make_plan, make_spec, variables
from app.ranks.tuned import TILES, Taken, look_up, site_of
from app.settings.declaration import Settings
from app.settings.loading import load_settings
from engines.contract.spec import GatewayAddress, GroupKind, Share
from engines.contract.tuned import Tuned, TunedFileError, fitting, read_tuned, sequence_arguments, tuned_file

H100 = "NVIDIA H100 80GB HBM3"
ENVIRON = {"HOME": "/none"}
MANY = sequence_arguments(2048, "cuda") | {"max_num_batched_tokens": 32768}


class Log:
    """Takes the place of a logger, whatever other tests have made of structlog."""

    def __init__(self) -> None:
        self.facts: list[dict[str, Any]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.facts.append({"event": event, "log_level": "info", **fields})

    def warning(self, event: str, **fields: Any) -> None:
        self.facts.append({"event": event, "log_level": "warning", **fields})


class Shelf:
    """A folder of tuned files, and what the log says of it."""

    def __init__(self, folder: Path, log: Log) -> None:
        self.folder = folder
        self._log = log

    def settings(self, **given: Any) -> Settings:
        """Of a service that looks there."""
        return load_settings({"model": "hub/model", "dp_size": "2", "tuned_dir": str(self.folder)} | given, {})

    def keep(self, settings: Settings | None = None, machine: str = H100, **fields: Any) -> Path:
        """A file for what these settings are about to serve."""
        values: dict[str, Any] = {
            "site": site_of(settings or self.settings(), machine, 2),
            "candidate": "2048 sequences",
            "arguments": MANY,
            "workload": "100 tokens in, 128 out",
            "measured_at": "2026-11-27T18:00:00Z",
            "tokens_per_s": 1500.0,
            "baseline_tokens_per_s": 1000.0,
        }
        tuned = Tuned(**values | fields)
        path = tuned_file(self.folder, tuned.site)
        path.write_bytes(msgspec.json.encode(tuned))
        return path

    def taken(self, machine: str = H100, environ: dict[str, str] | None = None, **given: Any) -> Taken:
        """What a service takes."""
        return look_up(self.settings(**given), machine, 2, environ or ENVIRON)

    def said(self, event: str) -> list[dict[str, Any]]:
        """Facts of the log, which is forgotten."""
        found = [fact for fact in self._log.facts if fact["event"] == event]
        self._log.facts.clear()
        return found


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    log = Log()
    monkeypatch.setattr(tuning, "logger", log)
    return Shelf(tmp_path, log)


def test_what_was_found_is_taken_and_said(shelf: Shelf) -> None:
    path = shelf.keep()
    assert shelf.taken().arguments == MANY
    (said,) = shelf.said("tuned_settings_taken")
    assert said["file"] == str(path) and said["arguments"] == MANY and said["left_out"] == [] and said["gain"] == 1.5


def test_nothing_is_taken_where_it_is_not_wanted_or_ranks_are_on_several_machines(shelf: Shelf) -> None:
    shelf.keep()
    assert shelf.taken(tuned=False) == Taken()
    nodes = {"node_size": "2", "master_addr": "127.0.0.1", "master_port": "7000", "insecure": "1"}
    assert shelf.taken(**nodes) == Taken()
    assert shelf.said("tuned_settings_taken") == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"max_num_seqs": "64"}, {"max_num_batched_tokens": 32768}),
        ({"engine_args": {"compilation_config": {"mode": 3}}}, {"max_num_batched_tokens": 32768}),
        ({"max_num_batched_tokens": "4096"}, sequence_arguments(2048, "cuda")),
        ({"max_num_batched_tokens": "1024"}, {}),  # a step has a token of each sequence
        ({"max_num_seqs": "65536"}, {}),
        ({"max_num_seqs": "64", "max_num_batched_tokens": "4096"}, {}),
    ],
)
def test_the_operators_own_wins(shelf: Shelf, given: dict[str, Any], expected: dict[str, Any]) -> None:
    shelf.keep()
    taken = shelf.taken(**given)
    assert taken.arguments == expected
    (said,) = shelf.said("tuned_settings_taken")
    assert set(said["left_out"]) == set(MANY) - set(expected)
    spec = make_spec(
        settings := shelf.settings(**given),
        make_plan(settings, ModelFacts("hub/model", is_moe=False), "cuda", 2, taken),
        0,
        1,
        GatewayAddress("ipc://x"),
        Share(),
        None,
    )
    assert spec.engine_args == {**expected, **settings.engine_arguments()}


@pytest.mark.parametrize(
    ("machine", "given", "reason"),
    [
        ("NVIDIA H200", {}, 'machine was "NVIDIA H100 80GB HBM3" and is "NVIDIA H200"'),
        (H100, {"tp_size": "2"}, "tp_size was 1 and is 2"),
        (H100, {"gpu_memory_utilization": "0.4"}, 'arguments was {} and is {"gpu_memory_utilization":0.4}'),
        (H100, {"extra_args": "--block-size 32"}, 'extra_args was [] and is ["--block-size","32"]'),
    ],
)
def test_what_was_measured_elsewhere_is_passed_over_and_the_difference_said(
    shelf: Shelf, machine: str, given: dict[str, Any], reason: str
) -> None:
    path = shelf.keep()
    assert shelf.taken(machine, **given) == Taken()
    (said,) = shelf.said("tuned_file_ignored")
    assert said["file"] == str(path) and said["log_level"] == "warning"
    assert said["reason"] == f"{reason}: run `phalanx tune` again"


def test_what_was_measured_with_the_operators_own_is_for_that_alone(shelf: Shelf) -> None:
    own = {"max_num_seqs": "64", "expert_parallel": "false"}
    path = shelf.keep(shelf.settings(**own), arguments={"max_num_batched_tokens": 1024})
    assert shelf.taken() == Taken()
    held = '{"max_num_seqs":64,"expert_parallel":false}'
    assert shelf.said("tuned_file_ignored")[0]["reason"] == f"held was {held} and is {{}}: run `phalanx tune` again"
    assert shelf.keep() != path
    assert shelf.taken().arguments == MANY
    assert shelf.taken(**own).arguments == {"max_num_batched_tokens": 1024}
    assert shelf.taken(max_num_seqs="65").arguments == {"max_num_batched_tokens": 32768}, "fitted to it"


def test_what_is_no_obstacle_is_not_named(shelf: Shelf) -> None:
    shelf.keep()
    assert shelf.taken(max_num_seqs="64", kv_cache_dtype="fp8") == Taken()
    assert "arguments was {}" in shelf.said("tuned_file_ignored")[0]["reason"]


def test_another_version_of_the_engine_is_another_site(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "vllm_version", lambda: "0.26.0")
    shelf.keep()
    monkeypatch.setattr(tuning, "vllm_version", lambda: "0.32.0")
    assert shelf.taken() == Taken()
    assert 'engine was "vllm 0.26.0" and is "vllm 0.32.0"' in shelf.said("tuned_file_ignored")[0]["reason"]


def test_other_models_files_are_none_of_its_business(shelf: Shelf) -> None:
    shelf.keep(shelf.settings(model="another/model"))
    assert shelf.taken() == Taken()
    assert shelf.said("tuned_file_ignored") == []


def test_what_does_not_change_the_speed_does_not_matter(shelf: Shelf) -> None:
    shelf.keep()
    assert shelf.taken(seed="7", port="0", served_model_name="x").arguments == MANY


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "it is broken ("),
        (b'{"version": 1}', "it is broken ("),
        (b'{"version": 2}', "it is of format 2, and this version of Phalanx reads 1"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_ignored(shelf: Shelf, data: bytes, reason: str) -> None:
    shelf.keep()
    bad = shelf.folder / "bad.tuned.json"
    bad.write_bytes(data)
    assert shelf.taken().arguments == MANY
    (said,) = shelf.said("tuned_file_ignored")
    assert said["file"] == str(bad) and said["reason"].startswith(reason)
    with pytest.raises(TunedFileError):
        read_tuned(bad)


def test_a_folder_that_is_not_there_holds_nothing(shelf: Shelf) -> None:
    assert shelf.taken(tuned_dir=str(shelf.folder / "none")) == Taken()


def test_replicas_are_taken_unless_the_operator_has_said_how_experts_lie(shelf: Shelf) -> None:
    shelf.keep(expert_parallel=False)
    moe = ModelFacts("hub/model", is_moe=True)
    for given, kind in [
        ({}, GroupKind.REPLICAS),
        ({"expert_parallel": True}, GroupKind.LOCKSTEP),
        ({"tuned": False}, GroupKind.LOCKSTEP),
    ]:
        assert make_plan(shelf.settings(**given), moe, "cuda", 2, shelf.taken(**given)).group_kind is kind


def test_tiles_are_for_the_ranks_unless_the_operator_has_his_own(shelf: Shelf) -> None:
    tiles = shelf.folder / "tiles"
    shelf.keep(tiles_folder=str(tiles))
    assert shelf.taken().variables == {}, "the folder is gone"
    assert shelf.said("tuned_settings_taken")[0]["left_out"] == [TILES]
    tiles.mkdir()
    taken = shelf.taken()
    assert taken.variables == {TILES: str(tiles)}
    plan = make_plan(shelf.settings(), ModelFacts("hub/model", is_moe=True), "cuda", 2, taken)
    assert variables(shelf.settings(), plan, Share(gpus=("0",)), None).values[TILES] == str(tiles)
    assert shelf.taken(environ=ENVIRON | {TILES: "/own"}).variables == {}


def test_a_folder_is_the_same_model_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    sites = [site_of(Settings(model=model), H100, 1) for model in ("model", str(tmp_path / "model"))]
    assert sites[0] == sites[1]
    assert site_of(Settings(model="hub/model"), H100, 1).model == "hub/model"


def test_graphs_are_asked_for_where_vllm_would_not_make_them() -> None:
    assert sequence_arguments(256, "cuda") == {"max_num_seqs": 256}
    assert sequence_arguments(1024, "cpu") == {"max_num_seqs": 1024}
    assert sequence_arguments(1024, "cuda", 1024)["compilation_config"]["cudagraph_capture_sizes"][-1] == 1024


@pytest.mark.parametrize("sequences", [257, 512, 1000, 1024, 4096])
def test_graphs_hold_all_sequences_and_as_many_tokens_of_prompts(sequences: int) -> None:
    sizes = sequence_arguments(sequences, "cuda")["compilation_config"]["cudagraph_capture_sizes"]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == 2 * sequences
    assert all(after - before <= max(8, before / 8) for before, after in pairwise(sizes[3:])), "padding is bounded"
    assert len(sizes) < 70, "each is a part of the start"


def test_no_tuned_arguments_leave_what_was_given_alone() -> None:
    assert fitting({}, {"max_num_seqs": 1}) == {}


def test_a_share_of_a_gpu_is_another_machine() -> None:
    assert Gpu(0, "GPU-a", "A100").names == {"0": "A100"}
    assert Gpu(0, "GPU-a", "A100", ("MIG-1", "MIG-2")).names == {"MIG-1": "A100 MIG 1/2", "MIG-2": "A100 MIG 1/2"}
