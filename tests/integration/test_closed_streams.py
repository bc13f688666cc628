"""A service that is started without standard input, output or error serves like any other."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.service import BATCH, COMMAND, DEADLINE_S, until

STREAMS = {"0", "1", "2"}


@contextmanager
def started(command: str) -> Iterator[psutil.Process]:
    """The gateway that a shell's command line, with this in place of `phalanx serve`, becomes."""
    serve = f"{COMMAND} serve --engine simulated --dp-size 1 --port 0 --log-dir logs"
    with tempfile.TemporaryDirectory(prefix="px-", dir="/tmp") as folder:  # short: sockets lie below it
        shell = ["bash", "-c", f"exec {command.replace('SERVE', serve)}"]
        with subprocess.Popen(shell, cwd=folder, env=os.environ | {"TMPDIR": folder}) as process:
            try:
                yield psutil.Process(process.pid)
            finally:
                process.terminate()
    assert process.returncode == 0


def port_of(gateway: psutil.Process) -> int:
    """Where it listens, once it does."""
    assert gateway.status() != psutil.STATUS_ZOMBIE
    return next((c.laddr.port for c in gateway.net_connections("tcp4") if c.status == psutil.CONN_LISTEN), 0)


def is_ready(client: httpx.Client) -> bool:
    return client.get("/health").status_code == 200


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_service_serves_without_standard_streams(closed: str) -> None:
    with started(f"SERVE {closed}") as gateway:
        port = until(lambda: port_of(gateway), "it does not listen")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client:
            until(lambda: is_ready(client), "it is not ready")
            assert client.post(BATCH, json={"prompts": ["a"]}).json()["request_counts"]["ok"] == 1
        family = [gateway, *gateway.children(recursive=True)]
        assert len(family) == 3  # with the guardian and its rank
        for member in family:
            assert {path.name for path in Path(f"/proc/{member.pid}/fd").iterdir()} >= STREAMS


def test_a_service_serves_when_its_standard_output_takes_nothing() -> None:
    with started("SERVE >/dev/full") as gateway:
        port = until(lambda: port_of(gateway), "it does not listen")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client:
            until(lambda: is_ready(client), "it is not ready")
