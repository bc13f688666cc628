"""The guardian, with real processes below it: whoever ends, nothing stays."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from guarded import SHARED_MEMORY, guarded

from engines.host.rank_log import RankLog
from tests.service import until

SLEEPER = "import os, time; os.write(1, b'rank %d\\n' % os.getpid()); time.sleep(600)"


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_nothing_stays_when_the_rank_ends(tmp_path: Path) -> None:
    """Not even what ignores SIGTERM and has left its session, nor shared memory that only a tracker knows of."""
    with guarded(tmp_path) as family:
        family.wait_complete()
        (tmp_path / "end").touch()
        assert family.wait() == 7
        assert family.leftovers() == []


def test_nothing_stays_when_the_rank_is_killed(tmp_path: Path) -> None:
    with guarded(tmp_path) as family:
        family.wait_complete()
        kill(family.rank_pid())
        assert family.wait() == 128 + signal.SIGKILL
        assert family.leftovers() == []


def test_nothing_stays_when_the_gateway_lets_go(tmp_path: Path) -> None:
    with guarded(tmp_path) as family:
        family.wait_complete()
        family.cut()
        assert family.wait() == 128 + signal.SIGKILL
        assert family.leftovers() == []
        assert (tmp_path / "runtime").exists()  # the gateway lives, and may start the rank again there


def test_when_the_gateway_is_dead_its_folder_goes_with_the_last_rank(tmp_path: Path) -> None:
    runtime = tmp_path / "runtime"
    with guarded(tmp_path) as family:
        for name in ("0.1.sock", "1.1.sock", "2.1.sock", "lock"):
            (runtime / name).touch()
        for name in ("1.1", "2.1"):  # one has a guardian, one was about to be started when the gateway was killed
            (runtime / name).mkdir()
        other = os.open(runtime / "1.1", os.O_RDONLY)
        fcntl.flock(other, fcntl.LOCK_EX)
        family.wait_complete()
        family.cut(farewell=b"")
        family.wait()
        assert family.leftovers() == []
        assert sorted(path.name for path in runtime.iterdir()) == ["1.1", "1.1.sock", "lock"]
    os.close(other)
    with guarded(tmp_path, SLEEPER) as family:
        family.rank_pid()
        family.cut(farewell=b"")
        family.wait()
        assert not runtime.exists()


def test_a_guardian_whose_folder_went_with_the_gateway_ends_without_a_word(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "engines", "guard", str(tmp_path / "0.1" / "rank.json")]
    ended = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


def test_a_process_without_its_first_thread_does_not_stay(tmp_path: Path) -> None:
    """It shows as a zombie and is none: the others hold its memory. A killed worker is that for a moment."""
    exit_thread = 60 if os.uname().machine == "x86_64" else 93  # the system call
    rank = (
        "import ctypes, os, threading, time\n"
        "if os.fork() == 0:\n"
        "    threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "    os.write(1, b'headless %d\\n' % os.getpid())\n"
        f"    ctypes.PyDLL(None).syscall({exit_thread}, 0)\n"
        "os.write(1, b'rank %d\\n' % os.getpid()); time.sleep(600)"
    )
    with guarded(tmp_path, rank) as family:
        headless = psutil.Process(int(until(lambda: family.said("headless"), "the child does not run")[0]))
        until(lambda: headless.status() == psutil.STATUS_ZOMBIE, "its first thread runs")
        kill(family.rank_pid())
        family.wait()
        assert not headless.is_running()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_guardian_ends_the_rank(tmp_path: Path, number: signal.Signals) -> None:
    with guarded(tmp_path) as family:
        family.wait_complete()
        family.guardian.send_signal(number)
        assert family.wait() == 128 + signal.SIGKILL
        assert family.leftovers() == []


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.1, 0.2, 0.3])
def test_a_signal_while_the_guardian_starts_leaves_nothing(tmp_path: Path, delay_s: float) -> None:
    """Before its handlers stand it ends at once, like any process; then the rank reads that it is alone."""
    alone = "import os, sys; os.write(1, b'rank %d\\n' % os.getpid()); sys.stdin.read()"
    with guarded(tmp_path, alone) as family:
        time.sleep(delay_s)  # this is the case, not a wait
        family.guardian.send_signal(signal.SIGTERM)
        family.wait()
        until(lambda: not family.processes(), "the rank is left")


def test_shared_memory_that_was_there_before_is_not_the_ranks(tmp_path: Path) -> None:
    """A model may lie in /dev/shm: its weights are mapped, and must not be deleted behind the rank."""
    model = SHARED_MEMORY / f"phalanx-test-{os.getpid()}.safetensors"
    folder = SHARED_MEMORY / f"phalanx-test-{os.getpid()}"
    mapping = (
        "import mmap, os, time\n"
        f"for name in ({str(model)!r}, {str(folder / 'new')!r}):\n"
        "    with open(name, 'a+b') as file:\n"
        "        file.write(b'weights'); file.flush(); kept = mmap.mmap(file.fileno(), 0)\n"
        "        globals()[name] = kept\n"
        "os.write(1, b'complete\\n'); time.sleep(600)"
    )
    model.write_bytes(b"weights")
    folder.mkdir()
    try:
        with guarded(tmp_path, mapping) as family:
            until(lambda: "complete" in family.log, "the rank has not mapped it")
            family.cut()
            family.wait()
            assert model.exists()
            assert (folder / "new").exists()
    finally:
        model.unlink()
        (folder / "new").unlink(missing_ok=True)
        folder.rmdir()


def test_shared_memory_that_another_process_uses_stays(tmp_path: Path) -> None:
    """Ranks of a lock-step group share some; who dies first must not pull it away from under the others."""
    shared, own = (SHARED_MEMORY / f"phalanx-test-{os.getpid()}-{name}" for name in ("shared", "own"))
    holding = (
        "import mmap, os, sys, time\n"
        "files = [open(name, 'a+b') for name in sys.argv[1:]]\n"
        "[file.truncate(4096) for file in files]\n"
        "kept = [mmap.mmap(file.fileno(), 4096) for file in files]\n"
        "os.write(1, b'complete\\n'); time.sleep(600)"
    )
    rank = holding.replace("sys.argv[1:]", repr([str(shared), str(own)]))
    with guarded(tmp_path, rank) as family:
        until(lambda: "complete" in family.log, "the rank has not mapped it")
        with subprocess.Popen([sys.executable, "-c", holding, str(shared)], stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            family.cut()
            family.wait()
            assert (shared.exists(), own.exists()) == (True, False)
            other.kill()
    shared.unlink()


def test_a_rank_that_floods_its_output_does_not_deafen_the_guardian(tmp_path: Path) -> None:
    flood = "import os\nwhile True: os.write(1, b'x' * 65536)"
    with guarded(tmp_path, flood) as family:
        until(lambda: Path(family.spec.log_file + ".1").exists(), "the log is not full")
        family.cut()
        assert family.wait() == 128 + signal.SIGKILL
        assert family.leftovers() == []


def test_a_log_that_cannot_be_written_does_not_end_the_rank(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    chatty = "for number in range(1000): print('x' * 100, flush=True)\nopen('done', 'w').close()"
    with guarded(tmp_path, chatty, log_file=str(tmp_path / "file" / "logs" / "rank.log")) as family:
        assert family.wait() == 0
        assert (tmp_path / "done").exists()


def test_a_rank_that_cannot_be_started_leaves_nothing(tmp_path: Path) -> None:
    with guarded(tmp_path, program="/no/such/program") as family:
        assert family.wait() != 0
        assert family.leftovers() == []


# ---------------------------------------------------------------- the log


def test_a_log_is_bounded(tmp_path: Path) -> None:
    log = RankLog(tmp_path / "logs" / "rank.log", limit_bytes=100)
    for number in range(100):
        log.write(b"line %02d\n" % number)
    log.close()
    newest, older = (tmp_path / "logs" / "rank.log"), (tmp_path / "logs" / "rank.log.1")
    lines = older.read_text().splitlines() + newest.read_text().splitlines()
    assert lines[-1] == "line 99"
    assert lines == [f"line {number:02}" for number in range(100 - len(lines), 100)]
    assert newest.stat().st_size + older.stat().st_size <= 250


def test_a_log_goes_on_when_its_disk_does_again(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    log = RankLog(folder / "rank.log", limit_bytes=20)
    folder.rename(tmp_path / "away")
    log.write(b"x" * 30)  # turning it over fails: the folder is gone
    folder.touch()
    log.write(b"lost\n")
    folder.unlink()
    log.write(b"kept\n")
    log.close()
    assert (folder / "rank.log").read_bytes() == b"kept\n"
