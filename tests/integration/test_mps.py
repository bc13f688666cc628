"""MPS's control daemon, for as long as whoever needs it. The daemon comes with NVIDIA's driver; where there is none, a
program of a few lines stands for it: it starts a server, as the real one does, and answers commands.
"""

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
import uvloop

from engines.host.mps import Mps
from tests.service import until

COMMAND = """#!/bin/sh
# Without a daemon the real one ends at once.
[ $# -gt 0 ] && exec "$PYTHON" "$0.py" "$@"
kill -0 "$(cat "$CUDA_MPS_PIPE_DIRECTORY/control" 2>/dev/null)" 2>/dev/null
"""
DAEMON = """
import os, pathlib, signal, subprocess, sys, time
pipes = pathlib.Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
assert "CUDA_VISIBLE_DEVICES" not in os.environ
if sys.argv[1:] == ["-f"]:
    if os.environ.get("FAILS"):
        pathlib.Path(os.environ["CUDA_MPS_LOG_DIRECTORY"], "control.log").write_text("[Control] no device\\n")
        sys.exit(1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "nvidia-cuda-mps-server"])
    (pipes / "control").write_text(str(os.getpid()))
    while True:
        time.sleep(600)
"""
OWNER = """
import asyncio, sys, time
from pathlib import Path
from engines.host.mps import Mps
import asyncio
import os
async def main():
    print(await Mps(os.environ).ensure(Path(sys.argv[1])), flush=True)
    time.sleep(600)
asyncio.run(main())
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    program = tmp_path / "bin" / "nvidia-cuda-mps-control"
    program.parent.mkdir()
    program.write_text(COMMAND)
    program.with_name(f"{program.name}.py").write_text(DAEMON)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {
        **os.environ,
        "PYTHON": sys.executable,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "CUDA_VISIBLE_DEVICES": "1",
    }


@pytest.fixture(autouse=True)
def on_the_path(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The service looks commands up on its own PATH."""
    monkeypatch.setenv("PATH", environ["PATH"])


def servers(folder: Path) -> list[psutil.Process]:
    """A folder's daemon and its server. Their guardian has set a title, which hides its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in process.environ().get("CUDA_MPS_PIPE_DIRECTORY", ""):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_it_runs_for_as_long_as_it_is_wanted(
    run: Callable[[Awaitable[dict[str, str]]], dict[str, str]], tmp_path: Path, environ: dict[str, str]
) -> None:
    mps = Mps(environ)
    found = run(mps.ensure(tmp_path))
    try:
        assert found == {
            "CUDA_MPS_PIPE_DIRECTORY": str(tmp_path / "mps" / "pipes"),
            "CUDA_MPS_LOG_DIRECTORY": str(tmp_path / "mps" / "logs"),
        }
        before = {process.pid for process in servers(tmp_path)}
        assert len(before) == 2, "the daemon, and its server"
        assert run(mps.ensure(tmp_path)) == found
        assert {process.pid for process in servers(tmp_path)} == before, "one serves all ranks"
    finally:
        mps.close()
        mps.close()
    until(lambda: not servers(tmp_path), "nothing of it is left")
    assert not (tmp_path / "mps").exists()


def test_one_that_has_ended_is_started_anew(tmp_path: Path, environ: dict[str, str]) -> None:
    mps = Mps(environ)
    asyncio.run(mps.ensure(tmp_path))
    try:
        (daemon,) = [process for process in servers(tmp_path) if "-f" in process.cmdline()]
        daemon.kill()
        until(lambda: not servers(tmp_path), "its server went with it")
        asyncio.run(mps.ensure(tmp_path))
        assert len(servers(tmp_path)) == 2
    finally:
        mps.close()


def test_one_that_does_not_start_says_why(tmp_path: Path, environ: dict[str, str]) -> None:
    mps = Mps(environ | {"FAILS": "1"})
    with pytest.raises(OSError, match=r"MPS does not start \(\[Control\] no device\): .*--no-mps"):
        asyncio.run(mps.ensure(tmp_path))
    assert not servers(tmp_path)


def test_an_administrators_own_is_used(tmp_path: Path, environ: dict[str, str]) -> None:
    mps = Mps(environ | {"CUDA_MPS_PIPE_DIRECTORY": "/var/mps"})
    assert asyncio.run(mps.ensure(tmp_path)) == {}
    mps.close()
    assert not list(tmp_path.glob("mps"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_a_gateway_that_is_killed(number: signal.Signals, tmp_path: Path, environ: dict[str, str]) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], env=environ, stdout=subprocess.PIPE)
    assert owner.stdout is not None and owner.stdout.readline()
    started = servers(tmp_path)
    assert len(started) == 2
    owner.send_signal(number)
    owner.wait()
    until(lambda: not servers(tmp_path), "nothing of it is left")
    owner.stdout.close()
