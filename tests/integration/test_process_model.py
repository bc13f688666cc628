"""Who lives and dies with whom, on the real processes of a service: gateway, guardian, rank."""

import contextlib
import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from tests.service import STAYS_DOWN, Json, Service, serving, starting, until

SLOW = {"step_ms": 20, "max_num_seqs": 4}
LOADING = [{"start_s": 600.0}, {"block_loop_s": 600.0}]
GONE_S = 20.0  # for what takes a second on an idle machine


def titled(service: Service, title: str) -> list[psutil.Process]:
    """The service's processes of this title: `phalanx-rank 0`."""
    found = []
    for running in service.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [running] if title in " ".join(running.cmdline()) else []
    return found


def process(service: Service, title: str) -> psutil.Process:
    return until(lambda: titled(service, title), f"there is no {title}")[0]


def kill(service: Service, title: str) -> None:
    process(service, title).kill()


def runtime(service: Service) -> list[str]:
    """What lies in the gateway's private folder for its ranks: sockets, and a folder for each."""
    return sorted(path.name for folder in service.folder.glob("phalanx-*") for path in folder.glob("*.*"))


def lost(service: Service, number: int = 0) -> Json:
    """What the gateway says of the loss."""
    return until(
        lambda: next(iter(service.facts("rank_lost", rank=number)), None), f"rank {number} is not reported lost"
    )


@pytest.fixture
def service() -> Iterator[Service]:
    with serving(*STAYS_DOWN, **SLOW) as running:
        running.errors_expected = True
        yield running


@pytest.fixture(params=LOADING, ids=["start_s", "block_loop_s"])
def loading(request: pytest.FixtureRequest) -> Iterator[Service]:
    """Both kinds of loading: the loop goes on meanwhile, or is blocked as it is by vLLM's."""
    with starting(*STAYS_DOWN, **request.param) as running:
        running.errors_expected = True
        until(lambda: [rank["stage"] for rank in running.ranks()] == ["loading", "loading"], "no rank is loading")
        yield running


def test_every_rank_has_a_process_group_of_its_own(service: Service) -> None:
    """Ctrl-C in the gateway's terminal reaches the gateway alone; yet all share its session, and so the scheduler's."""
    gateway = service.process.pid
    groups = {os.getpgid(gateway)}
    for number in (0, 1):
        guardian, rank = process(service, f"phalanx-guardian {number}"), process(service, f"phalanx-rank {number}")
        assert (guardian.ppid(), rank.ppid()) == (gateway, guardian.pid)
        assert os.getsid(guardian.pid) == os.getsid(rank.pid) == os.getsid(gateway)
        groups |= {os.getpgid(guardian.pid), os.getpgid(rank.pid)}
    assert len(groups) == 5


def test_private_folders_are_private(service: Service) -> None:
    folder = next(service.folder.glob("phalanx-*"))
    assert runtime(service) == ["0.1", "0.1.sock", "1.1", "1.1.sock"]
    assert {path.stat().st_mode & 0o077 for path in (folder, folder / "0.1", folder / "1.1")} == {0}


# ---------------------------------------------------------------- the gateway


def test_a_killed_gateway_leaves_nothing(service: Service) -> None:
    with service.begin(["a"] * 20, sampling_params={"max_tokens": 8000}):
        until(lambda: min(service.held) > 0, "nothing runs")
        service.signal(signal.SIGKILL)
        service.wait()
    assert_nothing_left(service)


def test_a_gateway_killed_while_its_ranks_load_leaves_nothing(loading: Service) -> None:
    loading.signal(signal.SIGKILL)
    loading.wait()
    assert_nothing_left(loading)


def assert_nothing_left(service: Service) -> None:
    until(lambda: not service.processes(), "processes are left", GONE_S)
    assert sorted(service.folder.rglob("phalanx-*/**/*")) + sorted(service.folder.glob("phalanx-*")) == []


# ---------------------------------------------------------------- a guardian


def test_a_killed_guardian_takes_its_rank_along(service: Service) -> None:
    kill(service, "phalanx-guardian 1")
    assert lost(service, 1)["reason"] == "its guardian was ended by SIGKILL"
    until(lambda: not titled(service, "phalanx-rank 1"), "the rank is left", GONE_S)
    until(lambda: runtime(service) == ["0.1", "0.1.sock"], "its folder is left", GONE_S)
    until(lambda: service.ranks()[1]["state"] == "backoff", "it is not over", GONE_S)
    assert zombies(service) == [], "the rank was orphaned, and nobody collected it"
    assert service.health()["status"] == "degraded"
    answer = service.batch(["a"] * 6, sampling_params={"max_tokens": 1})
    assert answer["request_counts"]["ok"] == 6


def test_a_guardian_killed_while_its_rank_loads_takes_it_along(loading: Service) -> None:
    kill(loading, "phalanx-guardian 0")
    assert lost(loading)["reason"] == "its guardian was ended by SIGKILL"
    until(lambda: not titled(loading, "phalanx-rank 0"), "the rank is left", GONE_S)
    assert len(titled(loading, "phalanx-rank 1")) == 1


# ---------------------------------------------------------------- a rank


def test_after_a_killed_rank_its_guardian_cleans_up(service: Service) -> None:
    kill(service, "phalanx-rank 0")
    assert lost(service)["reason"] == "its process was ended by SIGKILL"
    assert not titled(service, "phalanx-guardian 0")
    assert runtime(service) == ["1.1", "1.1.sock"]
    until(lambda: zombies(service) == [], "a zombie is left")


def test_after_a_rank_killed_while_loading_its_guardian_cleans_up(loading: Service) -> None:
    kill(loading, "phalanx-rank 0")
    assert lost(loading)["reason"] == "its process was ended by SIGKILL"
    assert not titled(loading, "phalanx-guardian 0")
    assert runtime(loading) == ["1.1", "1.1.sock"]


def test_a_service_whose_last_rank_is_killed_while_loading_ends_with_the_reason() -> None:
    with starting("--restart-backoff-s", "50ms", dp_size=1, start_s=600) as service:
        service.errors_expected = True
        kill(service, "phalanx-rank 0")
        until(lambda: service.ranks()[0]["incarnation"] == 2, "it is not tried again")
        kill(service, "phalanx-rank 0")
        assert service.wait() == 1
        assert "phalanx: rank 0 could not start: its process was ended by SIGKILL" in service.log
        service.check_nothing_left()


def test_a_rank_that_does_not_hear_is_killed_after_the_deadline() -> None:
    """Stopped by SIGSTOP, it neither finishes nor obeys; the others are not kept waiting by it for longer."""
    with serving("--stop-timeout-s", "5") as service:  # long enough for the one that hears
        process(service, "phalanx-rank 1").suspend()
        service.signal()
        assert service.wait() == 0
        assert [event["rank"] for event in service.facts("rank_killed")] == [1]
        service.check_nothing_left()


def test_a_rank_that_has_its_loop_blocked_is_ended_at_once(loading: Service) -> None:
    """However long its deadline would be: it serves nobody."""
    loading.signal()
    assert loading.wait(deadline_s=GONE_S) == 0
    assert loading.facts("rank_killed") == []
    loading.check_nothing_left()


# ---------------------------------------------------------------- what piles up


def test_fifty_batches_cost_the_gateway_no_descriptor(service: Service) -> None:
    gateway = psutil.Process(service.process.pid)
    service.batch(["a"] * 20, sampling_params={"max_tokens": 1})
    before = gateway.num_fds()
    for _ in range(50):
        service.batch(["a"] * 20, sampling_params={"max_tokens": 1})
    until(lambda: gateway.num_fds() <= before, f"it had {before} descriptors and has {gateway.num_fds()}")


def test_a_lost_rank_costs_the_gateway_no_descriptor(service: Service) -> None:
    gateway = psutil.Process(service.process.pid)
    before = gateway.num_fds()
    kill(service, "phalanx-rank 0")
    lost(service)
    until(lambda: gateway.num_fds() < before, "what it had for the rank is still open")


def zombies(service: Service) -> list[psutil.Process]:
    below = psutil.Process(service.process.pid).children(recursive=True)
    return [child for child in below if child.status() == psutil.STATUS_ZOMBIE]
