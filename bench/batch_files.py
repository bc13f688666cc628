"""Files of OpenAI's batch lines, their answers, and who makes answers of them: `vllm run-batch` and Phalanx."""

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec

from bench.engine_settings import EngineSettings, as_flags
from bench.phalanx_server import PhalanxServer
from bench.processes import Child, MeasurementFailed, wait_until
from bench.vllm_server import named_as_vllm
from bench.workload import WorkloadShape

URLS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
READING = b"Reading batch from"  # what run-batch logs once its engine is there
WEIGHTS = {"load_format"}
ERROR = re.compile(r"^[\w.]*(?:Error|Exception): .*", re.MULTILINE)
TIMEOUT_S = 3600.0
STOP_GRACE_S = 30.0
LOOK_S = 0.1
PIECE_BYTES = 2**20


class BatchFile(msgspec.Struct, kw_only=True):
    """The same for all sides."""

    path: Path
    url: str
    items: int
    tokens: int  # of all answers together


class FileRun(msgspec.Struct, kw_only=True):
    """One file, from the start of whoever answers it to its complete output."""

    whole_s: float
    start_s: float  # until the engine took the first of it
    items: int

    @property
    def work_s(self) -> float:
        """What a service that runs already takes."""
        return self.whole_s - self.start_s


class Side(Protocol):
    """What makes an output file of an input file."""

    name: str

    def run(self, file: BatchFile, output: Path) -> FileRun:
        """Starts everything that it takes, and stops it. Raises MeasurementFailed."""


def write_file(path: Path, endpoint: str, model: str, shape: WorkloadShape, number: int) -> BatchFile:
    """A file of this number; they all differ."""
    work, url = shape.make(number), URLS[endpoint]
    with path.open("wb") as file:
        for index, (prompt, tokens) in enumerate(zip(work.prompts, work.max_tokens, strict=True)):
            asked: dict[str, Any] = {"prompt": prompt}  # Any: JSON
            if endpoint == "chat":
                asked = {"messages": [{"role": "user", "content": prompt}]}
            body = {"model": model, **asked, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
            line = {"custom_id": f"line-{index}", "method": "POST", "url": url, "body": body}
            file.write(msgspec.json.encode(line) + b"\n")
    return BatchFile(path=path, url=url, items=shape.prompts, tokens=work.output_tokens)


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Body(msgspec.Struct):
    usage: _Usage | None = None


class _Response(msgspec.Struct):
    status_code: int
    body: _Body | None = None


class _Line(msgspec.Struct):
    custom_id: str
    response: _Response | None = None
    error: Any = None  # Any: words of whoever wrote it


def check(file: BatchFile, lines: Iterator[bytes]) -> None:
    """Raises MeasurementFailed unless every line has an answer of its own, and all tokens were made."""
    tokens, seen = 0, set[str]()
    for raw in lines:
        line = msgspec.json.decode(raw, type=_Line)
        response = line.response
        if response is None or response.status_code != 200 or response.body is None or response.body.usage is None:
            raise MeasurementFailed(f"{file.url}: {line.custom_id} failed: {_words(line.error) or raw.decode()[:500]}")
        seen.add(line.custom_id)
        tokens += response.body.usage.completion_tokens
    if len(seen) != file.items or tokens != file.tokens:
        raise MeasurementFailed(
            f"{file.url}: {len(seen)} of {file.items} lines were answered, with {tokens} tokens for {file.tokens}"
        )


def _words(error: Any) -> str:  # Any: JSON
    while isinstance(error, dict):
        error = error.get("error") or error.get("message") or json.dumps(error)
    return str(error) if error else ""


class RunBatch:
    """`vllm run-batch`, which starts an engine for each file. Equal settings are given to it as flags; without them it
    has vLLM's own."""

    def __init__(self, settings: EngineSettings, folder: Path, *, has_defaults: bool) -> None:
        self.name = f"vllm run-batch, {'its defaults' if has_defaults else 'equal settings'}"
        self._settings = settings
        self._folder = folder
        self._flags = ["--data-parallel-size", str(settings.dp_size), "--tensor-parallel-size", str(settings.tp_size)]
        if has_defaults:  # but a model without weights has none there either
            self._flags += as_flags({name: settings.arguments[name] for name in WEIGHTS & settings.arguments.keys()})
        else:
            self._flags += as_flags(settings.arguments) + ["--enable-expert-parallel"] * settings.is_moe

    def run(self, file: BatchFile, output: Path) -> FileRun:
        settings = self._settings
        command = [sys.executable, "-P", "-m", "vllm.entrypoints.cli.main", "run-batch", "-i", str(file.path)]
        command += ["-o", str(output), "--model", settings.model, *self._flags]
        variables = settings.environment("|".join(settings.cores)) | {"VLLM_LOGGING_LEVEL": "INFO"}
        if settings.device == "cpu":
            variables["PYTHONPATH"] = str(named_as_vllm(self._folder))
        began = time.monotonic()
        child = Child(command, self._folder / f"{self.name.replace(' ', '-').replace(',', '')}.log", variables)
        try:
            reading_s, whole_s = self._watch(child, file, output, began)
        finally:
            child.stop(STOP_GRACE_S)
        with output.open("rb") as lines:
            check(file, lines)
        return FileRun(whole_s=whole_s, start_s=reading_s, items=file.items)

    def _watch(self, child: Child, file: BatchFile, output: Path, began: float) -> tuple[float, float]:
        """When it began to read the file, and when its output was complete, in seconds since `began`."""
        reading_s, tail = 0.0, b""

        def is_complete() -> bool:
            nonlocal reading_s, tail
            if not reading_s:
                tail = tail[-len(READING) :] + log.read()
                reading_s = time.monotonic() - began if READING in tail else 0.0
            if count_lines(output) >= file.items:
                return True
            child.check_alive()
            return False

        with child.log.open("rb") as log:
            try:
                done = wait_until(is_complete, TIMEOUT_S)
            except MeasurementFailed as error:  # it has ended, perhaps just after the last look
                if count_lines(output) < file.items:
                    raise MeasurementFailed(f"{_last_error(child.log)}{error}") from None
                done = True
        whole_s = time.monotonic() - began
        if not done:
            raise child.failure(f"its output was not complete after {TIMEOUT_S:g} s")
        if not reading_s:
            raise child.failure(f"its log does not say {READING.decode()!r}")
        return reading_s, whole_s


def _last_error(log: Path) -> str:
    """What a program ended by, as Python says it, and a comma; nothing where the log has no such line."""
    found = ERROR.findall(log.read_text(errors="replace"))
    return f"{found[-1]}, " if found else ""


def count_lines(path: Path) -> int:
    """Of a file that may not be there yet."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(PIECE_BYTES), b""))


class PhalanxFile:
    """`phalanx serve`, and a client of its Batch API: the file is uploaded, its batch is made and followed, and the
    output is downloaded."""

    name = "Phalanx, /v1/batches"

    def __init__(self, settings: EngineSettings, folder: Path, flags: list[str]) -> None:
        self._server = PhalanxServer.on(settings, folder, ["--served-model-name", settings.model, *flags])

    def run(self, file: BatchFile, output: Path) -> FileRun:
        try:
            self._server.start()
            began = time.monotonic()
            self._answer(file, output)
            work_s = time.monotonic() - began
        finally:
            self._server.stop()
        with output.open("rb") as lines:
            check(file, lines)
        return FileRun(whole_s=self._server.start_s + work_s, start_s=self._server.start_s, items=file.items)

    def _answer(self, file: BatchFile, output: Path) -> None:
        client = self._server.client
        with file.path.open("rb") as content:
            sent = client.post("/v1/files", data={"purpose": "batch"}, files={"file": (file.path.name, content)})
        asked = {"input_file_id": _json(sent)["id"], "endpoint": file.url, "completion_window": "24h"}
        batch = _json(client.post("/v1/batches", json=asked))
        deadline = time.monotonic() + TIMEOUT_S
        while batch["status"] not in ("completed", "failed", "expired", "cancelled"):
            if time.monotonic() > deadline:
                raise MeasurementFailed(f"the batch was not complete after {TIMEOUT_S:g} s: {batch}")
            time.sleep(LOOK_S)
            batch = _json(client.get(f"/v1/batches/{batch['id']}"))
        found = batch["error_file_id"] or batch["output_file_id"]
        if found is None:
            raise MeasurementFailed(f"the batch is {batch['status']}: {batch['errors']}")
        with client.stream("GET", f"/v1/files/{found}/content") as answer, output.open("wb") as written:
            for piece in answer.iter_bytes(PIECE_BYTES):
                written.write(piece)


def _json(answer: Any) -> dict[str, Any]:  # Any: httpx's response, and JSON
    if answer.status_code != 200:
        raise MeasurementFailed(f"{answer.url}: {answer.status_code} {answer.text[:500]}")
    found: dict[str, Any] = answer.json()
    return found
