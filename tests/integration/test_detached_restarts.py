"""Batches in the background over the life of a gateway: killed, stopped, with other settings, or still loading."""

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from app.journal.place import FILE_NAME
from tests.detached import ENDLESS, SHORT, act, cancel, code, dispatched, ended, look, submit
from tests.service import BATCH, Json, Service, starting, until

SLOWLY = {"step_ms": 20, "max_num_seqs": 4}
AS_IT_WAS = ("--default-max-tokens", "20")
STEADY = {"max_tokens": 16, "ignore_eos": True}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@contextmanager
def killed(data: Path, *flags: str, **engine: object) -> Iterator[Service]:
    """A service that is killed in the end."""
    service = Service("--data-dir", str(data), "--log-level", "debug", *flags, dp_size=1, **engine)
    try:
        service.start()
        yield service
        service.signal(signal.SIGKILL)
        service.wait()
    except BaseException:
        print(service.log)  # noqa: T201  pytest shows it with the failure
        raise
    finally:
        service.discard()


@contextmanager
def kept(data: Path, *flags: str, **engine: object) -> Iterator[Service]:
    """A service that is stopped in the end."""
    with starting("--data-dir", str(data), "--log-level", "debug", *flags, dp_size=1, **engine) as service:
        yield service


def stored(data: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(data / FILE_NAME)) as connection:
        return connection.execute(query).fetchall()


def reaches(service: Service, batch: Json, status: str) -> Json:
    def reached() -> Json | None:
        found = look(service, batch)
        return found if found["status"] == status else None

    return until(reached, f"it is not {status}") or {}


def test_nothing_with_a_result_runs_again_after_a_kill_and_what_brings_none_is_held(data: Path) -> None:
    with killed(data, **SLOWLY) as service:
        endless = submit(service, ["x"], sampling_params=ENDLESS)
        batch = submit(service, [f"prompt {index}" for index in range(40)], sampling_params=STEADY)
        until(lambda: look(service, batch)["last_seq"] >= 6, "there are no results")
        reaches(service, endless, "in_progress")
    durable = {index for (index,) in stored(data, "SELECT idx FROM results")}
    assert 6 <= len(durable) < 40
    with killed(data, max_num_seqs=64, step_ms=5) as service:
        done = ended(service, batch)
        assert (done["status"], done["request_counts"]["ok"]) == ("completed", 40)
        assert done["usage"]["completion_tokens"] == 40 * 16
        assert sorted(dispatched(service, batch)) == sorted(set(range(40)) - durable)  # type: ignore[type-var]
        lines = service.client.get(f"{BATCH}/{batch['id']}/results").text.splitlines()[:-1]
        assert len(lines) == 40
        until(lambda: dispatched(service, endless), "it does not run again")
    with killed(data, step_ms=5) as service:
        until(lambda: dispatched(service, endless), "it does not run again")
    with kept(data, step_ms=5) as service:
        held = reaches(service, endless, "held")
        assert "restarted 3 times" in held["reason"] and service.metric("phalanx_detached_batches_held") == 1
        assert act(service, endless, "resume").json()["status"] == "queued"
        assert reaches(service, endless, "in_progress")["reason"] is None
        assert cancel(service, endless)["status"] == "cancelled"


def test_a_stop_queues_what_runs_and_other_settings_hold_it(data: Path) -> None:
    with kept(data, *AS_IT_WAS, **SLOWLY) as service:
        batch = submit(service, [f"prompt {index}" for index in range(40)])
        reaches(service, batch, "in_progress")
        until(lambda: look(service, batch)["last_seq"] > 0, "there is no result")
        with service.client.stream("GET", f"{BATCH}/{batch['id']}/results", params={"follow": 1}) as following:
            lines = following.iter_lines()
            next(lines)
            request = {"prompts": ["x"], "sampling_params": ENDLESS}
            with service.client.stream("POST", BATCH, json=request, headers={"Idempotency-Key": "k"}) as waiting:
                service.signal()
                last = list(lines)[-1]
                assert '"batch_generation.progress"' in last, "whoever follows is to ask again"
                with pytest.raises(Exception, match="incomplete chunked read"):
                    waiting.read()
        assert service.wait() == 0
        service.check_nothing_left()
    assert stored(data, "SELECT state, restarts_without_result FROM batches") == [("queued", 0)] * 2
    with kept(data, "--default-max-tokens", "5") as service:
        held = reaches(service, batch, "held")
        assert "default_max_tokens was 20 and is 5" in held["reason"]
        assert code(act(service, batch, "resume")) == (409, "wrong_state")
        service.wait_ready()
        assert service.batch(["attached"])["usage"]["completion_tokens"] == 5
        assert look(service, batch)["status"] == "held"
        (other,) = (found for found in service.client.get(BATCH).json()["data"] if found["id"] != batch["id"])
        assert cancel(service, other)["status"] == "cancelled"
        assert code(act(service, other, "resume")) == (409, "wrong_state")
    with kept(data, *AS_IT_WAS) as service:
        assert ended(service, batch)["request_counts"]["ok"] == 40


def test_a_batch_is_taken_while_the_ranks_load_and_may_expire_before_they_are_ready(data: Path) -> None:
    with kept(data, start_s=2.0) as service:
        patient, short_lived = (
            submit(service, ["x"], sampling_params=SHORT),
            submit(service, ["x"], expires_after_s=0.2),
        )
        assert patient["status"] == "queued" and patient["started_at"] is None
        gone = ended(service, short_lived)
        assert gone["status"] == "expired" and "expires_after_s" in gone["reason"]
        assert gone["request_counts"]["timeout"] == 1 and not service.facts("rank_ready")
        resumed = act(service, short_lived, "resume", expires_after_s=0.1).json()
        assert resumed["status"] == "queued" and ended(service, short_lived)["status"] == "expired"
        assert ended(service, patient)["status"] == "completed"
        assert dispatched(service, short_lived) == []


def test_batches_are_held_while_no_rank_is_left_and_go_on_when_one_comes_back(data: Path) -> None:
    flags = ("--breaker-failures", "1", "--trial-restarts", "0")
    with kept(data, *flags, step_ms=5, crash_on="boom") as service:
        service.errors_expected = True
        service.wait_ready()
        batch = submit(service, ["x"] * 3, sampling_params=ENDLESS)
        service.post(["boom"])
        reason = reaches(service, batch, "held")["reason"]
        assert reason.startswith("no rank is left")
        late = submit(service, ["x"], sampling_params=SHORT)
        reaches(service, late, "held")
        assert code(act(service, late, "resume")) == (409, "wrong_state")
        assert service.act(0, "restart").status_code == 202
        assert ended(service, late)["status"] == "completed"
        reaches(service, batch, "in_progress")
        assert cancel(service, batch)["request_counts"]["cancelled"] == 3
