"""`phalanx tune` as a user runs it, on simulated ranks: gone on with, interrupted, and taken up by `phalanx serve`."""

import json
import os
import signal
from pathlib import Path

import msgspec
import psutil

from app.ranks.tuned import site_of
from app.settings.loading import load_settings
from engines.contract.tuned import Tuned, tuned_file
from phalanx.tune.sweep import Sweep
from tests.service import DEADLINE_S, serving, until, with_title
from tests.tuning import Tuning


def test_a_sweep_goes_on_where_it_stopped(tmp_path: Path) -> None:
    tuning = Tuning(tmp_path, step_ms=5, max_seqs_that_fit=256)  # which is as many as it has by itself
    rows = [{"question": f"What is {number}?"} for number in range(39)]
    rows.append({"question": "long " * 20_000})  # no candidate takes it
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    work = ("--prompts", "rows.jsonl", "--prompt-column", "question", "--items", "40")
    first = tuning.finish(*work, "--budget", "1s")
    (baseline,) = first["trials"]
    assert not first["is_complete"] and first["winner"] == baseline["candidate"] == "baseline"
    assert baseline["tokens_per_s"] > 0 and baseline["memory_bytes"] > 1 << 20 and baseline["start_s"] > 0
    process = tuning.start(*work, "--budget", "1h")
    try:
        until(lambda: "512 sequences: the service" in tuning.said, "it does not go on")
        code, said = tuning.refused(*work, "--budget", "1h")
        assert code == 3 and "another `phalanx tune` measures this just now" in said
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert process.returncode == 130 and "the same command goes on" in tuning.said
    until(lambda: not with_title(list(psutil.process_iter()), str(tuning.folder)), "its service is left")
    (other,) = tuning.finish(*work, "--budget", "1s", service=("--max-num-seqs", "8"))["trials"]
    assert other != baseline, "what was measured with other flags is passed off as its own"
    again = tuning.finish(*work, "--budget", "1s")
    assert again["trials"][0] == baseline, "it was measured again"
    assert "out of memory: 512 sequences do not fit" in again["trials"][1]["failure"]


def test_a_disk_that_takes_no_more_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    tuning = Tuning(tmp_path)
    code, said = tuning.refused("--budget", "1s", after="ulimit -f 8")
    assert code == 3 and said.startswith(f"phalanx: --tuned-dir is {tuning.tuned}, which takes no files (")
    tuning.tuned.rename(tmp_path / "away")
    tuning.tuned.touch()
    code, said = tuning.refused("--budget", "1s")
    assert code == 3 and "File exists): make room there, or name another folder" in said


def test_a_rank_that_cannot_start_is_not_waited_for(tmp_path: Path) -> None:
    code, said = Tuning(tmp_path, crash_at_start=[1]).refused("--dp-size", "2", "--budget", "1s")
    assert code == 3 and "phalanx: rank 1 cannot start: " in said


def test_the_operators_journal_logs_and_limits_do_not_concern_a_service_of_its_own(tmp_path: Path) -> None:
    operators = {"PHALANX_JOURNAL_URL": "postgresql://nobody@127.0.0.1:1/phalanx", "PHALANX_LOG_LEVEL": "error"}
    operators |= {f"PHALANX_MAX_{name}": "50" for name in ("BATCH_ITEMS", "WAITING_ITEMS", "WAITING_TOKENS")}
    operators |= {"PHALANX_MAX_BODY_BYTES": "1KiB", "PHALANX_MAX_HELD_BYTES": "1KiB", "PHALANX_MAX_TIMEOUT_S": "1"}
    quiet = ("--log-format", "console", "--log-level", "warning")
    result = Tuning(tmp_path).finish("--items", "60", "--budget", "1s", service=quiet, operators=operators)
    assert [trial["failure"] for trial in result["trials"]] == [None]


def test_no_round_is_faster_than_the_engine(tmp_path: Path) -> None:
    """The longest answers leave first: those that come in a round were begun before it."""
    tuning = Tuning(tmp_path, step_ms=20, max_num_seqs=64)
    tuning.finish("--output-tokens", "lognormal:32:256", "--budget", "1s")
    sweep = next(tuning.tuned.glob("*.sweep.json")).read_bytes()
    rates = msgspec.json.decode(sweep, type=Sweep).trials[0].rates
    assert len(rates) == 3 and max(rates) < 1.15 * 64 / 0.02


def test_a_rank_that_dies_in_the_midst_of_the_work_is_why_a_candidate_is_of_no_use(tmp_path: Path) -> None:
    tuning = Tuning(tmp_path, step_ms=10)
    work = ("--output-tokens", "100", "--items", "32")
    assert [trial["failure"] for trial in tuning.finish(*work, "--budget", "1s")["trials"]] == [None]
    process = tuning.start(*work, "--budget", "1h", service=("--breaker-failures", "1"))
    try:
        (rank,) = until(tuning.busy_ranks, "no candidate has work")
        os.kill(rank, signal.SIGKILL)
        (other,) = until(lambda: [busy for busy in tuning.busy_ranks() if busy != rank], "it has no second life")
        os.kill(other, signal.SIGKILL)  # now the breaker opens, and all items fail
        until(lambda: "512 sequences: rank 0 was lost: " in tuning.said, "nobody says so")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert process.returncode == 143
    until(lambda: not with_title(list(psutil.process_iter()), str(tuning.folder)), "its service is left")


def test_serve_takes_what_was_found(tmp_path: Path) -> None:
    given = {"engine": "simulated", "dp_size": "1", "model": "any/model", "engine_args": json.dumps({"step_ms": 5})}
    tuned = Tuned(
        site=site_of(load_settings(given, {}), "simulated", 1),
        candidate="512 sequences",
        arguments={"max_num_seqs": 512},
        workload="some",
        measured_at="2026-11-27T18:00:00+00:00",
        tokens_per_s=150.0,
        baseline_tokens_per_s=100.0,
    )
    path = tuned_file(tmp_path, tuned.site)
    path.write_bytes(msgspec.json.encode(tuned))
    flags = ("--model", "any/model", "--tuned", "--tuned-dir", str(tmp_path))
    with serving(*flags, dp_size=1, step_ms=5) as service:
        (said,) = service.facts("tuned_settings_taken")
        assert said["file"] == str(path) and said["arguments"] == {"max_num_seqs": 512} and said["gain"] == 1.5
        assert service.ranks()[0]["max_num_seqs"] == 512
