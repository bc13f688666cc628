"""The child that looks at the model: it asks a hub that may not answer, and must not outlive the gateway."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.service import until

DEADLINE_S = 120.0  # for an import or two


def test_an_inspection_inherits_no_secret_and_ends_with_its_gateway(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="without it no hub is asked")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(DEADLINE_S)
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PHALANX_"))}
        gateway = subprocess.Popen(
            [sys.executable, "-m", "phalanx", "serve", "nobody/no-such-model", "--port", "0", "--device", "cpu"],
            env=variables
            | {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "TMPDIR": str(tmp_path)}
            | {"PHALANX_API_KEY": "phx-a-secret"},
            pass_fds=[silent.fileno()],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with gateway, silent.accept()[0]:  # the hub has been asked, and says nothing
            below = psutil.Process(gateway.pid).children()
            assert len(below) == 1
            assert not [name for name in below[0].environ() if name.startswith("PHALANX_")]
            assert not [each for each in below[0].net_connections() if each.laddr == silent.getsockname()]
            gateway.send_signal(signal.SIGKILL)
            gateway.wait(DEADLINE_S)
            # Far sooner than the hub's own deadline would end it.
            until(lambda: not below[0].is_running(), "the inspection goes on", deadline_s=10)
    assert not list(tmp_path.glob("phalanx-*"))
