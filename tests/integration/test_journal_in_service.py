"""The journal in a running service: opened before anything is served, watched while it serves, closed in the end."""

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from app.journal.place import FILE_NAME, FolderPlace
from app.keys.store import KeysFile
from tests.service import COMMAND, Service, bearer, serving, until

DAYS = {"since": "2026-01-01", "until": "2026-12-31"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journal") / "data"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeysFile:
    return KeysFile(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def service(folder: Path, keys: KeysFile) -> Iterator[Service]:
    """Its client shows an admin's key."""
    boss = keys.create("boss", admin=True, tenant="bosses").secret
    with serving("--data-dir", str(folder), "--api-keys-file", str(keys.path), api_key=boss) as service:
        yield service


def test_a_journal_that_cannot_be_opened_ends_the_start_with_one_sentence(
    service: Service, folder: Path, tmp_path: Path
) -> None:
    """And nothing else of it: no port, no rank, no folder. All that may be wrong is in tests/journal."""
    garbage = FolderPlace(tmp_path / "garbage")
    garbage.folder.mkdir()
    garbage.file.write_bytes(b"garbage" * 4000)
    expected = [
        (["--data-dir", str(folder)], 2, f"is used by pid {service.process.pid} on "),
        (["--data-dir", str(garbage.folder)], 2, f"{garbage.file} is no SQLite database"),
        (["--journal-url", "postgresql://me:secret@127.0.0.1:1/j"], 1, "the journal on me@127.0.0.1:1/j cannot be"),
    ]
    started = [start(tmp_path, *flags) for flags, _, _ in expected]
    for process, (_, code, sentence) in zip(started, expected, strict=True):
        _, said = process.communicate(timeout=60)
        assert process.returncode == code
        last = said.splitlines()[-1]
        assert last.startswith("phalanx: ") and sentence in last
        assert "Traceback" not in said and "secret" not in said
        assert "gateway_listening" not in said and "rank" not in said
    assert not list(tmp_path.glob("phalanx*")), "a folder is left"


def start(folder: Path, *flags: str) -> "subprocess.Popen[str]":
    command = [COMMAND, "serve", "--engine", "simulated", "--port", "0", "--log-format", "json", *flags]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PHALANX_")}
    variables |= {"TMPDIR": str(folder), "XDG_STATE_HOME": str(folder / "state")}
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def change(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(statement)


def test_usage_is_counted_by_tenant_and_shown_to_whom_it_concerns(service: Service, keys: KeysFile) -> None:
    ours, theirs = (keys.create(name, tenant=name).secret for name in ("ours", "theirs"))
    for secret, prompts in ((ours, ["a", "b"]), (ours, ["a"]), (theirs, ["a"])):
        until(lambda secret=secret: ask(service, secret).status_code == 200, "the key is unknown")
        with service.begin(prompts, api_key=secret, sampling_params={"max_tokens": 3}) as pending:
            assert pending.answer()["request_counts"]["ok"] == len(prompts)
    (found,) = ask(service, ours).json()["data"]
    assert (found["tenant"], found["requests"], found["items"]) == ("ours", 2, 3)
    assert found["completion_tokens"] == 9 and found["total_tokens"] == found["prompt_tokens"] + 9
    everybody = service.client.get("/v1/usage", params=DAYS).json()["data"]
    assert {used["tenant"]: used["items"] for used in everybody} == {"ours": 3, "theirs": 1}
    assert service.metric("phalanx_tenant_items_total", tenant="ours") == 3
    assert service.metric("phalanx_tenant_tokens_total", tenant="ours", kind="completion") == 9


def ask(service: Service, secret: str) -> httpx.Response:
    return httpx.get(f"{service.url}/v1/usage", headers=bearer(secret), timeout=60)


@pytest.mark.parametrize(
    ("since", "until_day", "param"),
    [
        ("2026-11-31", None, "since"),
        ("20261101", None, "since"),
        (None, "soon", "until"),
        ("2026-11-02", "2026-11-01", "since"),
        ("2025-11-01", "2026-11-02", "since"),
    ],
)
def test_days_that_are_none_are_refused(service: Service, since: str | None, until_day: str | None, param: str) -> None:
    named = {"since": since, "until": until_day}
    answer = service.client.get("/v1/usage", params={name: day for name, day in named.items() if day})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_while_the_journal_takes_no_writes_health_says_so_and_attached_batches_go_on(
    service: Service, folder: Path, tmp_path: Path
) -> None:
    assert service.health()["journal"] == {"status": "available", "reason": None}
    service.errors_expected = True
    before = items_of(service, "bosses")
    for path in folder.glob(f"{FILE_NAME}*"):
        path.rename(tmp_path / path.name)
    assert service.batch(["a"])["request_counts"]["ok"] == 1
    service.client.get("/v1/usage")  # writes what was used
    health = until(lambda: service.health() if service.health()["status"] == "degraded" else None, "it is not told")
    assert health["journal"] == {"status": "unavailable", "reason": "the database file was replaced or removed"}
    assert health["reason"].endswith("no batch can be stored: the database file was replaced or removed")
    assert service.metric("phalanx_journal_available") == 0
    assert service.batch(["a", "b"])["request_counts"]["ok"] == 2
    for path in tmp_path.glob(f"{FILE_NAME}*"):
        path.rename(folder / path.name)
    until(lambda: service.health()["status"] == "ok", "it does not come back")
    assert service.metric("phalanx_journal_available") == 1
    assert items_of(service, "bosses") == before + 3, "usage waits until it can be stored"
    assert service.metric("phalanx_journal_commits_total") >= 2
    assert service.metric("phalanx_journal_commit_seconds_count") == service.metric("phalanx_journal_commits_total")


def items_of(service: Service, tenant: str) -> int:
    found = service.client.get("/v1/usage", params=DAYS).json()["data"]
    return sum(used["items"] for used in found if used["tenant"] == tenant)


def test_a_gateway_whose_journal_was_taken_over_ends_and_says_so(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path / "data")
    with serving("--data-dir", str(place.folder)) as service:
        change(place.file, "UPDATE owner SET epoch = epoch + 1, holder = 'pid 7 on elsewhere'")
        service.batch(["a"])
        service.client.get("/v1/usage")
        assert service.wait() == 1
        said = "phalanx: the journal was taken over by pid 7 on elsewhere, epoch 2; this gateway has epoch 1"
        assert said in service.log
        assert "Traceback" not in service.log and service.processes() == []
    with closing(sqlite3.connect(place.file)) as connection:
        assert connection.execute("SELECT * FROM usage").fetchall() == []
