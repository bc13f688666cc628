"""A service in memory, as `phalanx generate` sees it, and a run of the command against it."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from phalanx.client import BatchInfo, BatchStatus, NotFound, Output, Result, ResultError, Usage
from phalanx.generate import run as run_module
from phalanx.generate.command import generate

FAILS = "FAILS"  # an item whose prompt has this in it gets an error


def state(id_: str, status: BatchStatus, last_seq: int = 0) -> BatchInfo:
    return BatchInfo(id=id_, status=status, created_at=0, last_seq=last_seq)


class MemoryResults:
    """Results after a seq, in the order in which they were done; `stops` what follows after so many."""

    progress = None

    def __init__(self, results: list[Result], stops_after: int | None, stop: BaseException | None) -> None:
        self._results = results
        self._stops_after = stops_after
        self._stop = stop

    def __iter__(self) -> Iterator[Result]:
        for count, result in enumerate(self._results):
            if self._stop is not None and count == self._stops_after:
                raise self._stop
            yield result


class MemoryBatch:
    def __init__(self, service: "MemoryService", id_: str) -> None:
        self._service = service
        self.id = id_

    def refresh(self) -> BatchInfo:
        results = len(self._service.items(self.id))
        return state(self.id, "cancelled" if self.id in self._service.cancelled else "in_progress", results)

    def results(self, after: int = 0, *, follow: bool = True) -> MemoryResults:
        assert follow
        self._service.asked_after.append(after)
        items = list(enumerate(reversed(self._service.items(self.id)), 1))  # the last one is done first
        stop, self._service.stop = self._service.stop, None
        results = [_result(seq, item) for seq, item in items if seq > after]
        return MemoryResults(results, self._service.stops_after, stop)

    def cancel(self) -> BatchInfo:
        self._service.cancelled.append(self.id)
        return state(self.id, "cancelled")

    def wait(self) -> BatchInfo:
        return self.refresh()

    def resume(self, timeout_s: float | None = None) -> BatchInfo:
        self._service.cancelled.remove(self.id)
        self._service.resumed.append(self.id)
        return self.refresh()


class MemoryService:
    """What was sent, and what was asked. `stop` is raised once, after `stops_after` results of a reading."""

    def __init__(self) -> None:
        self.batches_sent: dict[str, list[dict[str, Any]]] = {}
        self.options: list[dict[str, Any]] = []
        self.keys: dict[str, str] = {}
        self.asked_after: list[int] = []
        self.cancelled: list[str] = []
        self.resumed: list[str] = []
        self.stop: BaseException | None = None
        self.stops_after: int | None = None
        self.on_submit: Callable[[], None] = lambda: None

    def items(self, id_: str) -> list[dict[str, Any]]:
        if id_ not in self.batches_sent:
            raise NotFound(
                "no such batch",
                status=404,
                type="not_found",
                code="batch_not_found",
                param=None,
                retry_after_s=None,
                request_id=None,
            )
        return self.batches_sent[id_]

    def submit(self, prompts: Iterable[Any], *, idempotency_key: str, **options: Any) -> MemoryBatch:
        items = list(prompts)
        id_ = self.keys.setdefault(idempotency_key, f"batchgen-{len(self.keys) + 1}")
        assert self.batches_sent.setdefault(id_, items) == items
        self.options.append(options)
        self.on_submit()
        return MemoryBatch(self, id_)

    def batch(self, id: str) -> MemoryBatch:  # noqa: A002  as the client names it
        return MemoryBatch(self, id)

    def batches(self, *, limit: int) -> Iterator[object]:
        return iter(())

    def close(self) -> None:
        pass

    @property
    def sent(self) -> list[list[str]]:
        """The custom_ids of each batch."""
        return [[item["custom_id"] for item in items] for items in self.batches_sent.values()]


class Ended(msgspec.Struct):
    """A command that has ended."""

    exit_code: int
    stdout: bytes
    stderr: str


class Command:
    """Runs `phalanx generate` in a folder."""

    def __init__(self, folder: Path, service: MemoryService, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.service = service
        monkeypatch.chdir(folder)
        monkeypatch.setattr(run_module, "connect", lambda *_: service)

    def __call__(self, *args: str, stdin: str | None = None) -> Ended:
        from phalanx.cli import CommandError

        done = CliRunner().invoke(generate, args, input=stdin, standalone_mode=False)
        if isinstance(done.exception, CommandError):
            return Ended(done.exception.exit_code, done.stdout_bytes, str(done.exception))
        if done.exception is not None:
            raise done.exception
        return Ended(done.return_value, done.stdout_bytes, done.stderr)

    def write(self, name: str, *lines: str) -> None:
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines))

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [msgspec.json.decode(line) for line in (self.folder / name).read_bytes().splitlines()]

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


def _result(seq: int, item: dict[str, Any]) -> Result:
    text = item.get("prompt") or item["messages"][-1]["content"]
    row = {"seq": seq, "index": 0, "custom_id": item["custom_id"]}
    if FAILS in text:
        error = ResultError("context_length_exceeded", "the prompt is too long")
        return Result(**row, status="error", outputs=[], error=error, usage=Usage(3, 0, 3))
    return Result(**row, status="ok", outputs=[Output(0, f"<{text}>", "stop")], usage=Usage(3, 5, 8))
