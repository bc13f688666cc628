"""`phalanx generate` as a user runs it, against a service of simulated ranks: killed, interrupted, and gone on with."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.service import COMMAND, DEADLINE_S, Service, serving, until, with_title

ROWS = 48
SLOW = ("--max-tokens", "40", "--sampling-params", '{"ignore_eos": true}')  # 0.2 s an item
AT_ONCE = 8  # items


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    journal = str(tmp_path_factory.mktemp("journal"))
    with serving("--data-dir", journal, dp_size=1, step_ms=5, max_num_seqs=AT_ONCE) as running:
        yield running


class Generation:
    """The command in a folder of its own, with `ROWS` rows to do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "out.jsonl"
        self._spool = folder / "out.jsonl.phalanx-results"
        self.write(ROWS)

    def write(self, rows: int) -> None:
        """An input of so many rows."""
        lines = [json.dumps({"id": number, "question": f"What is {number}?"}) for number in range(rows)]
        (self.folder / "in.jsonl").write_text("\n".join(lines))

    def start(self, *flags: str) -> subprocess.Popen[str]:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PHALANX_")}
        command = [COMMAND, "generate", "in.jsonl", "out.jsonl", "--template", "Q: {question}", *flags]
        return subprocess.Popen(
            command, cwd=self.folder, env=variables, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def finish(self, *flags: str) -> str:
        """Until it has done its job. What it said."""
        process = self.start(*flags)
        _, said = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, said
        return said

    @contextmanager
    def running(self, *flags: str) -> Iterator[subprocess.Popen[str]]:
        """Some rows are done, and some are not."""
        before = self.results
        process = self.start(*flags)
        try:
            until(lambda: self.results > before or process.poll() is not None, "no result comes")
            assert process.poll() is None, process.communicate()[1]
            yield process
        finally:
            process.kill()
            process.communicate()

    @property
    def results(self) -> int:
        """That it has kept so far."""
        return self._spool.read_bytes().count(b"\n") if self._spool.exists() else 0

    def check(self) -> None:
        """Each row is there once, in its order, with a text, and nothing else is left."""
        rows: list[dict[str, Any]] = [json.loads(line) for line in self.output.read_text().splitlines()]
        assert [row["id"] for row in rows] == list(range(ROWS))
        assert all(row["status"] == "ok" and row["text"] and row["completion_tokens"] == 40 for row in rows)
        assert {path.name for path in self.folder.iterdir()} == {"in.jsonl", "out.jsonl"}


@pytest.fixture
def generation(tmp_path: Path) -> Generation:
    return Generation(tmp_path)


def test_what_the_service_refuses_of_a_row_fails_alone(generation: Generation, service: Service) -> None:
    (generation.folder / "in.jsonl").write_text(
        '{"question": "a"}\n{broken\n{"question": "' + "long " * 20_000 + '"}\n'
    )
    process = generation.start("--url", service.url, "--max-tokens", "2")
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1, said
    failures = (generation.folder / "out.jsonl.failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in failures] == [2, 3]
    assert json.loads(failures[1])["code"] == "context_length_exceeded"


def test_parameters_that_the_service_refuses_end_the_command(generation: Generation, service: Service) -> None:
    process = generation.start("--url", service.url, "--temperature", "-1")
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2 and "temperature" in said
    assert {path.name for path in generation.folder.iterdir()} == {"in.jsonl"}


def test_a_command_that_was_killed_goes_on_with_its_batch(generation: Generation, service: Service) -> None:
    before = service.metric("phalanx_items_total")
    with generation.running("--url", service.url, *SLOW) as process:
        process.kill()
    said = generation.finish("--url", service.url, *SLOW)
    generation.check()
    assert "going on with batch" in said and f"{ROWS} rows: {ROWS} ok, 0 failed" in said
    assert service.metric("phalanx_items_total") - before == ROWS  # none ran twice


def test_ctrl_c_leaves_the_batch_or_cancels_it(generation: Generation, service: Service) -> None:
    generation.write(20 * ROWS)  # no machine is so slow that they are done in time
    with generation.running("--url", service.url, *SLOW) as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 130 and "runs on" in said
    with generation.running("--url", service.url, *SLOW, "--on-interrupt", "cancel") as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 130 and "is cancelled" in said, said
    until(service.is_idle, "the batch still runs")


def test_a_service_of_the_jobs_own_ends_with_it(generation: Generation) -> None:
    engine_args = json.dumps({"step_ms": 5, "max_num_seqs": AT_ONCE})
    flags = ("--engine", "simulated", "--engine-args", engine_args)
    with generation.running("--local", "any/model", "--dp-size", "1", *SLOW, "--", *flags) as process:
        assert _processes(generation.folder)
        process.kill()
    until(lambda: not _processes(generation.folder), "the service outlives its job")


def _processes(folder: Path) -> list[int]:
    return with_title(list(psutil.process_iter()), str(folder)) + [
        process.pid for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(folder)
    ]
