"""Expert parallelism across two ranks on a CPU, with real vLLM: it changes where experts run, never what comes out."""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from engines.tiny_model import Shape, build

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

RANK = Path(__file__).with_name("expert_parallel_rank.py")
START_DEADLINE_S = 240.0
PROMPTS = [
    "Hello, my name is",
    "The capital of France is",
    "a",
    "def mean(values):",
    "Der Zug nach Hamburg fährt heute von",
    "The boats come in. " * 12,
    '{"id": "order-1042", "status":',
]


class Rank:
    """A rank's process, in a process group of its own with everything that vLLM starts."""

    def __init__(self, model: Path, rank: int, ports: list[int], directory: Path) -> None:
        ranks = 2 if ports else 1
        environment = os.environ | {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            "VLLM_RPC_BASE_PATH": str(directory),
            "VLLM_NO_USAGE_STATS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        if ports:
            environment |= {
                "VLLM_DP_MASTER_IP": "127.0.0.1",
                "VLLM_DP_MASTER_PORT": str(ports[1]),
                "PHALANX_RANK_CPU_EXPERT_PARALLEL": "1",
            }
        self.log = directory / f"rank-{ranks}-{rank}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(RANK), str(model), str(rank), str(ranks), str(ports[0] if ports else 0)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def ask(self, prompts: list[str]) -> None:
        stdin = self.process.stdin
        assert stdin is not None
        stdin.write(json.dumps(prompts).encode() + b"\n")
        stdin.flush()

    def texts(self) -> list[str]:
        """The texts for the last prompts; vLLM's own lines on stdout are skipped."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline:
            line = _line(self.process.stdout, deadline)
            if line.startswith(b"TEXTS "):
                found: list[str] = json.loads(line.removeprefix(b"TEXTS "))
                return found
            if line == b"":
                break
        raise AssertionError(f"no texts; the end of {self.log}:\n{self.log.read_text()[-4000:]}")

    def finish(self) -> int:
        """Ends it as intended, by closing its input. Its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(timeout=30)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def _line(stream: IO[bytes], deadline: float) -> bytes:
    """One line, or nothing at the end of the stream or when the time is up."""
    found = b""
    while not found.endswith(b"\n"):
        ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
        piece = os.read(stream.fileno(), 1) if ready else b""
        if piece == b"":
            return b""
        found += piece
    return found


@contextmanager
def started(model: Path) -> Iterator[tuple[Rank, list[Rank]]]:
    """One rank alone without the plugin, and two ranks with it; none is left afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="ph-", dir="/tmp"))  # short: sockets' paths are limited
    ports = free_ports(2)
    ranks: list[Rank] = []
    try:
        for rank, chosen in ((0, []), (0, ports), (1, ports)):
            ranks.append(Rank(model, rank, chosen, directory))
        yield ranks[0], ranks[1:]
    finally:
        for rank in ranks:
            rank.kill()
        shutil.rmtree(directory)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def test_two_expert_parallel_ranks_write_what_one_rank_alone_writes(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    with started(build(Shape.MOE, tmp_path / "model")) as (alone, (first, second)):
        alone.ask(PROMPTS)
        first.ask(PROMPTS[:5])
        second.ask(PROMPTS[5:])
        expected = alone.texts()
        assert len(set(expected)) == len(PROMPTS)
        assert alone.finish() == 0
        assert first.texts() + second.texts() == expected

        # Unequal work: the idle rank takes part in every step with a dummy.
        second.ask(PROMPTS)
        assert second.texts() == expected
        first.ask(PROMPTS[:1])
        assert first.texts() == expected[:1]
        assert [first.finish(), second.finish()] == [0, 0]
