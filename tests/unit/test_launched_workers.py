"""Workers that torchrun starts: what they tell each other, when they disagree, and how they are started."""

from types import SimpleNamespace
from typing import Any

import pytest
from rank_specs import rank_spec

from app.errors import FatalError
from app.ranks.model import ModelFacts
from app.ranks.plan import make_plan
from app.ranks.root_cause import root_cause
from app.settings.checks import contradictions
from app.settings.declaration import Settings
from engines.contract.spec import ExecutorKind, GroupKind, LockstepAddress
from engines.host.torchrun import shared_memory_prefix, torchrun_command
from engines.vllm_engine.external_launcher.digest import Digest
from engines.vllm_engine.external_launcher.launch import Launch, cores_of, read_launch
from engines.vllm_engine.external_launcher.leader import Inbox
from engines.vllm_engine.external_launcher.orders import (
    Head,
    Intent,
    Orders,
    WorkersDisagree,
    check_agreement,
    decode,
    encode,
    together,
)

LAUNCHED: dict[str, Any] = {"executor": ExecutorKind.EXTERNAL_LAUNCHER, "tp_size": 2, "directory": "/run/x/0.1"}


def output(request: str = "1-abc", tokens: tuple[int, ...] = (5,), reason: int | None = None) -> SimpleNamespace:
    return SimpleNamespace(request_id=request, new_token_ids=list(tokens), finish_reason=reason)


# ---------------------------------------------------------------- orders


@pytest.mark.parametrize("orders", [Orders(), Orders(adds=[b"x"], aborts=["7"]), Orders(is_last=True)])
def test_orders_arrive_as_they_were_sent(orders: Orders) -> None:
    assert decode(encode(orders)) == orders


def test_without_orders_nothing_travels() -> None:
    assert encode(Orders()) == b""


def test_all_that_has_come_is_one_order_additions_first() -> None:
    inbox = Inbox()
    for orders in (Orders(adds=[b"a"]), Orders(aborts=["1"]), Orders(adds=[b"b"]), Orders(is_last=True)):
        inbox.put(orders)
    assert inbox.take(0.0) == Orders(adds=[b"a", b"b"], aborts=["1"], is_last=True)
    assert inbox.take(0.0) == Orders()
    assert inbox.take(0.001) == Orders()


def test_everybody_works_or_ends_as_soon_as_one_has_reason_to() -> None:
    idle, busy, last = (Head(0, 1, 1, intent) for intent in (Intent.IDLE, Intent.WORK, Intent.END))
    assert together([idle, idle]) == Intent.IDLE
    assert together([idle, busy]) == Intent.WORK
    assert together([busy, last]) & Intent.END


# ---------------------------------------------------------------- agreement


def test_equal_outputs_have_equal_digests_and_a_difference_stays_for_good() -> None:
    ours, theirs = Digest([1, 2]), Digest([1, 2])
    for digest in (ours, theirs):
        digest.add([output(), output("2-abc", (1, 2), reason=1)])
    assert ours.value == theirs.value
    theirs.add([output(tokens=(6,))])
    ours.add([output(tokens=(7,))])
    for digest in (ours, theirs):
        digest.add([output()])
    assert ours.value != theirs.value


@pytest.mark.parametrize(
    "other",
    [
        [output("other-abc"), output("2-abc")],
        [output(tokens=(6,)), output("2-abc")],
        [output(reason=0), output("2-abc")],
        [output(), output("2-abc", ())],
        [output("2-abc"), output()],
        [output()],
    ],
)
def test_any_difference_counts(other: list[SimpleNamespace]) -> None:
    ours, theirs = Digest([]), Digest([])
    ours.add([output(), output("2-abc")])
    theirs.add(other)
    assert ours.value != theirs.value


def test_schedulers_with_different_room_disagree_before_the_first_step() -> None:
    assert Digest([256, 100]).value != Digest([256, 101]).value


def test_a_digest_fits_a_signed_number_of_64_bits() -> None:
    assert all(-(2**63) <= Digest([number]).value < 2**63 for number in range(100))


def test_each_ranks_workers_are_compared_with_its_own_first() -> None:
    heads = [Head(9, 3, 11, 1), Head(0, 3, 11, 1), Head(0, 3, 22, 0), Head(0, 3, 22, 0)]
    check_agreement(heads, workers=2)
    with pytest.raises(WorkersDisagree, match="worker 3 put out something else than worker 2"):
        check_agreement([*heads[:3], heads[3]._replace(digest=23)], workers=2)


def test_workers_that_are_out_of_step_are_named() -> None:
    with pytest.raises(WorkersDisagree, match="worker 1 has made 4, worker 0 3"):
        check_agreement([Head(0, 3, 1, 0), Head(0, 4, 1, 0)], workers=2)


# ---------------------------------------------------------------- starting


def test_torchrun_starts_the_workers_of_one_rank_by_themselves() -> None:
    command = torchrun_command(rank_spec(**LAUNCHED), ["python", "rank.json"])
    options = dict(zip(command[4:-3:2], command[5:-3:2], strict=True))
    assert (options["--nnodes"], options["--node-rank"], options["--nproc-per-node"]) == ("1", "0", "2")
    assert options["--master-addr"] == "127.0.0.1"
    assert command[-3:] == ["--no-python", "python", "rank.json"]


def test_the_ranks_of_a_lockstep_group_are_nodes_of_one_job() -> None:
    meeting = LockstepAddress(host="10.0.0.1", rpc_port=20001, master_port=20002)
    spec = rank_spec(**LAUNCHED, rank=1, dp_size=4, group_kind=GroupKind.LOCKSTEP, lockstep=meeting)
    command = torchrun_command(spec, ["python"])
    options = dict(zip(command[4:-2:2], command[5:-2:2], strict=True))
    assert (options["--nnodes"], options["--node-rank"], options["--nproc-per-node"]) == ("4", "1", "2")
    assert (options["--master-addr"], options["--master-port"]) == ("10.0.0.1", "20002")


def test_no_two_lives_of_a_rank_share_names_in_shared_memory() -> None:
    lives = [rank_spec(**LAUNCHED | {"directory": f"/run/x/0.{life}"}) for life in (1, 2)]
    assert len({shared_memory_prefix(spec) for spec in lives}) == 2
    assert shared_memory_prefix(lives[0]) == shared_memory_prefix(lives[0])


@pytest.mark.parametrize(
    ("binding", "cores"),
    [("0|1", [(0,), (1,)]), ("0-2,5|8-9", [(0, 1, 2, 5), (8, 9)]), ("nobind", [(), ()]), ("auto", [(0, 1), (2, 3)])],
)
def test_each_worker_has_its_part_of_the_cores(binding: str, cores: list[tuple[int, ...]]) -> None:
    assert [cores_of(number, binding, 2, [0, 1, 2, 3]) for number in (0, 1)] == cores


def test_workers_share_cores_where_there_are_too_few() -> None:
    assert [cores_of(number, "auto", 3, [4, 5]) for number in range(3)] == [(4,), (5,), (4,)]


def test_a_worker_has_as_many_threads_as_cores_not_the_one_that_torchrun_gives_it() -> None:
    environ = {"LOCAL_RANK": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "0|1-3"}
    launch = read_launch(rank_spec(**LAUNCHED), environ)
    assert launch == Launch(1, (1, 2, 3))
    assert not launch.leads
    assert environ["OMP_NUM_THREADS"] == "3"


def test_of_torchruns_last_words_the_signal_counts_that_came_from_outside() -> None:
    for signal, is_cause in (("Signal 9 (SIGKILL)", True), ("Signal 15 (SIGTERM)", False)):
        cause = root_cause(f"  error_file: <N/A>\n  traceback : {signal} received by PID 123\n")
        assert (cause is not None and signal in cause.text) is is_cause


# ---------------------------------------------------------------- settings


def test_a_simulated_rank_has_no_workers_to_start() -> None:
    (problem,) = contradictions(Settings(executor="external_launcher", engine="simulated", tp_size=2))
    assert "--executor" in problem
    assert "--engine" in problem


def test_one_worker_that_works_alone_needs_no_torchrun() -> None:
    settings = Settings(executor="external_launcher")
    with pytest.raises(FatalError, match="--tp-size"):
        make_plan(settings, ModelFacts("a/model", is_moe=False), "cpu", 2)
    make_plan(settings, ModelFacts("a/model", is_moe=True), "cpu", 2)  # their experts are spread
