"""One gateway after another on a journal, each on a machine of its own as far as it knows, with ranks that record what
they were given."""

import contextlib
import os
import shutil
import signal
import sqlite3
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg

from app.journal.place import FILE_NAME, Place, ServerPlace
from engines.host.runtime import sweep
from tests.detached import SUMMARY, ResultReader, with_key
from tests.exchanging import COMPLETIONS, ask
from tests.given import Record
from tests.openai_batches import FollowedBatch, custom_id_of
from tests.service import Service, as_object, until

RESULTS = """
    SELECT batches.idempotency_key, results.idx, results.body
    FROM results JOIN batches ON batches.ordinal = results.batch WHERE batches.removed_at IS NULL
"""
SLOW_ENOUGH: dict[str, Any] = {"step_ms": 4, "max_num_seqs": 16}  # about a thousand items a second
COMPARED = 50  # results of a batch with those of an undisturbed rank
PARAMS = {"max_tokens": 8, "ignore_eos": True}
FLAGS = ("--stop-timeout-s", "2", "--drain-timeout-s", "2", "--restart-backoff-s", "20ms", "--keepalive-s", "0.2")


class Gateways:
    """`record` is where the ranks write. Services that have ended are gone with their folders."""

    def __init__(self, place: Place, record: Path) -> None:
        self.place = place
        self._given = Record(record)
        self.service: Service | None = None

    def start(self) -> Service:
        """Until it listens. Its ranks load."""
        is_server = isinstance(self.place, ServerPlace)
        where = ("--journal-url", self.place.url) if is_server else ("--data-dir", str(self.place.folder))
        self.service = Service(*where, *FLAGS, prompts_file=str(self._given.path), **SLOW_ENOUGH)
        self.service.errors_expected = True
        self.service.start()
        return self.service

    def kill_rank(self) -> None:
        """One of them, if there is one."""
        if self.service is not None and (ranks := self.service.titled("phalanx-rank")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(ranks[0], signal.SIGKILL)

    def end(self, number: signal.Signals, reading: threading.Thread | None = None) -> str:
        """Returns its log when nothing of it runs any more, and who reads has noticed."""
        service = self.service
        assert service is not None
        service.signal(number)
        code = service.wait()
        assert code == (0 if number is signal.SIGTERM else -number), service.log
        until(lambda: not service.processes(), "processes are left", 15)
        sweep(service.folder)
        assert list(service.folder.glob("phalanx*")) == []
        log = service.log
        assert "Traceback" not in log, log
        if reading is not None:
            reading.join()
        self.discard()
        return log

    def discard(self) -> None:
        """Whatever has come of it."""
        if self.service is not None:
            self.service.discard()
            self.service = None

    # -- what is true of them

    def stored(self) -> dict[str, bytes]:
        """Results that are durable, by the prompt. That of a line of OpenAI's API is its custom_id, too."""
        found: dict[str, bytes] = {}
        for key, index, body in self._rows():
            prompt = custom_id_of(bytes(body).decode()) if key is None else prompt_of(key, index)
            assert prompt not in found, f"two results of {prompt}"
            found[prompt] = bytes(body)
        return found

    def ran(self) -> Counter[str]:
        """Prompts that ranks were given since this was last asked."""
        given = self._given.news()
        return Counter({_prompt_in(text): count for text, count in given.items()})

    def _rows(self) -> list[tuple[str | None, int, bytes]]:
        if isinstance(self.place, ServerPlace):
            with psycopg.connect(self.place.url) as server:
                return server.execute(RESULTS).fetchall()
        with tempfile.TemporaryDirectory(prefix="phalanx-copy.") as folder:  # the next gateway recovers, not this
            for path in self.place.folder.glob(f"{FILE_NAME}*"):
                shutil.copy(path, folder)
            with contextlib.closing(sqlite3.connect(Path(folder) / FILE_NAME)) as file:
                return file.execute(RESULTS).fetchall()


class Reader(ResultReader):
    """One batch and its reader, who goes on with every gateway where it was."""

    def __init__(self, key: str, size: int) -> None:
        super().__init__()
        self.key = key
        self.prompts = [prompt_of(key, index) for index in range(size)]

    @property
    def prompts_heard(self) -> set[str]:
        """Those whose results were read."""
        return {self.prompts[index] for index in list(self.heard)}  # another thread may add to them

    def compare(self, service: Service) -> None:
        """The texts are those of a rank to which nothing has happened."""
        some = range(0, len(self.prompts), len(self.prompts) // COMPARED)
        undisturbed = service.batch([self.prompts[index] for index in some], sampling_params=PARAMS)["results"]
        assert [self.heard[index]["outputs"] for index in some] == [result["outputs"] for result in undisturbed]

    def run(self, service: Service) -> None:
        """Until the batch has ended and all is read. Raises httpx.HTTPError when the gateway ends before."""
        answer = with_key(service, self.key, self.prompts, background=True, sampling_params=PARAMS)
        self.accepted(answer.raise_for_status().json())
        while (summary := self.follow(service))["object"] != SUMMARY:
            pass  # the service stops, and says so until it has
        assert summary["status"] == "completed" and summary["request_counts"]["ok"] == len(self.prompts), summary
        assert sorted(self.heard) == list(range(len(self.prompts))) and not self.made_up
        assert {result["status"] for result in self.heard.values()} == {"ok"}


class LineReader:
    """The same of OpenAI's API: the lines of a file, and of those that answer it."""

    def __init__(self, key: str, size: int) -> None:
        self.key = key
        prompts = [prompt_of(key, index) for index in range(size)]
        self._batch = FollowedBatch(key, COMPLETIONS, {prompt: {"prompt": prompt, **PARAMS} for prompt in prompts})

    @property
    def prompts_heard(self) -> set[str]:
        """Those whose lines were read."""
        return set(self._batch.heard)

    def run(self, service: Service) -> None:
        """As a Reader's."""
        self._batch.submit(service)
        shown = self._batch.follow(service)
        assert shown["status"] == "completed", shown

    def compare(self, service: Service) -> None:
        """The texts are those of a rank to which nothing has happened."""
        answered, refused = self._batch.check(service)
        assert not refused
        for prompt in list(answered)[:: len(answered) // COMPARED]:
            undisturbed = ask(service, COMPLETIONS, **self._batch.bodies[prompt]).json()
            assert answered[prompt]["response"]["body"]["choices"] == undisturbed["choices"]


def _prompt_in(text: str) -> str:
    """A prompt as a rank was given it: by itself, or in a request."""
    return str(as_object(text)["prompt"]) if text.startswith("{") else text


def prompt_of(key: str, index: int) -> str:
    """By which the ranks' record tells one item from all others."""
    return f"{key} item {index}"
