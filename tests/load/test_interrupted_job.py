"""`phalanx generate` on a Parquet file of 50,000 rows, ended in every way there is, and its service killed: each row
comes out once, in order, with all its columns.
"""

import datetime
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.host.ports import free_port_run
from tests.service import COMMAND, Service, until

pytestmark = [pytest.mark.load, pytest.mark.timeout(900)]
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROWS = 50_000
ENGINE = ("--engine", "simulated", "--engine-args", json.dumps({"step_ms": 5, "max_num_seqs": 64}))
SOME = 2_000  # results between one interruption and the next
TOKENS = 16
FLAGS = ("--template", "Q: {question} {tags}", "--max-tokens", f"{TOKENS}", "--sampling-params", '{"ignore_eos": true}')


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    flags = ("--port", str(free_port_run(1)), "--data-dir", str(tmp_path / "journal"))
    service = Service(*flags, step_ms=5, max_num_seqs=64)
    service.errors_expected = True
    service.start()
    try:
        yield service.wait_ready()
    finally:
        service.discard()


def write_input(path: Path) -> None:
    """Columns of all kinds."""
    began = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    columns = {
        "id": list(range(ROWS)),
        "question": [f"What is {number}?" for number in range(ROWS)],
        "score": [number / 7 if number % 11 else None for number in range(ROWS)],
        "at": [began + datetime.timedelta(seconds=number) for number in range(ROWS)],
        "tags": [[f"t{number % 3}"] * (number % 3) for number in range(ROWS)],
        "deep": [{"a": number, "b": str(number)} for number in range(ROWS)],
        "raw": [bytes([number % 256]) for number in range(ROWS)],
    }
    table = pa.table(columns)
    kinds = pa.array([f"kind {number % 5}" for number in range(ROWS)]).dictionary_encode()
    pq.write_table(table.append_column("kind", kinds), path, row_group_size=7_000)


class Job:
    """The same command again and again."""

    def __init__(self, folder: Path, *where: str) -> None:
        self._folder = folder
        self._where = where  # flags of the service come last
        write_input(folder / "in.parquet")

    def start(self, *flags: str) -> subprocess.Popen[str]:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PHALANX_")}
        return subprocess.Popen(
            [COMMAND, "generate", "in.parquet", "out.parquet", *FLAGS, *flags, *self._where],
            cwd=self._folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, how: signal.Signals, *flags: str) -> tuple[int, str]:
        """Starts it, and ends it after some results. Its exit code, and what it said."""
        process = self.start(*flags)
        self.until_more_has_come(process)
        process.send_signal(how)
        _, said = process.communicate(timeout=60)
        return process.returncode, said

    def until_more_has_come(self, process: subprocess.Popen[str]) -> None:
        before = self.results
        until(lambda: self.results > before + SOME or process.poll() is not None, "no results come")
        assert process.poll() is None, process.communicate()[1]

    @property
    def results(self) -> int:
        """That it has kept so far."""
        spool = self._folder / "out.parquet.phalanx-results"
        return spool.read_bytes().count(b"\n") if spool.exists() else 0

    def check(self) -> None:
        """Each row once, in its order, as it was, with its text; and nothing else is left."""
        before, after = (pq.read_table(self._folder / name) for name in ("in.parquet", "out.parquet"))
        assert after.select(before.column_names).equals(before)
        assert set(zip(after["status"].to_pylist(), after["completion_tokens"].to_pylist(), strict=True)) == {
            ("ok", TOKENS)
        }
        assert all(after["text"].to_pylist())
        assert not list(self._folder.glob("out.parquet.*"))


def test_every_row_comes_out_once_whatever_ends_the_command_and_its_service(tmp_path: Path, service: Service) -> None:
    job = Job(tmp_path, "--url", service.url)
    code, said = job.end(signal.SIGINT)
    assert code == 130 and "runs on: the same command again goes on" in said
    code, said = job.end(signal.SIGINT, "--on-interrupt", "cancel")
    assert code == 130 and "is cancelled: the same command again goes on" in said
    assert job.end(signal.SIGKILL)[0] == -signal.SIGKILL
    code, said = job.end(signal.SIGTERM)
    assert code == 143 and "runs on" in said
    process = job.start()
    job.until_more_has_come(process)
    service.signal(signal.SIGKILL)
    service.wait()
    service.start()
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0 and f"{ROWS:,} rows: {ROWS:,} ok, 0 failed" in said, said
    job.check()
    (batch,) = service.client.get("/v1/batch_generate").json()["data"]  # none was sent twice
    assert batch["request_counts"]["ok"] == ROWS


def test_a_service_of_the_jobs_own_goes_on_with_it(tmp_path: Path) -> None:
    job = Job(tmp_path, "--local", "any/model", "--dp-size", "2", "--", *ENGINE)
    assert job.end(signal.SIGKILL)[0] == -signal.SIGKILL
    code, said = job.end(signal.SIGINT)
    assert code == 130 and "is kept, its service stopped" in said
    process = job.start()
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0 and f"{ROWS:,} rows: {ROWS:,} ok, 0 failed" in said, said
    job.check()
