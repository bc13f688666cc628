"""Batches in the background over HTTP: what a client sees of them while the service lives.

How they outlive it is in test_detached_restarts.py, and those with a key are in test_idempotency_keys.py.
"""

import gzip
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.journal.place import FILE_NAME
from app.keys.store import KeysFile
from tests.detached import ENDLESS, LONG, SHORT, act, cancel, code, dispatched, ended, look, read, submit, with_key
from tests.service import BATCH, Json, Service, bearer, serving, until

SHORT_AND_LONG = [{"prompt": "short", "sampling_params": SHORT}, *["long"] * 3]
SECRETS: dict[str, str] = {}
FLAGS = ("--max-tenant-items", "1000", "--max-stored-bytes", "2MB", "--log-level", "debug", "--keepalive-s", "0.2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journal") / "data"


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Its client is `ours`, no admin."""
    keys = KeysFile(tmp_path_factory.mktemp("keys") / "keys.json")
    for name in ("ours", "theirs", "boss"):
        SECRETS[name] = keys.create(name, tenant=name, admin=name == "boss").secret
    flags = ("--data-dir", str(folder), "--api-keys-file", str(keys.path), *FLAGS)
    with serving(*flags, api_key=SECRETS["ours"], step_ms=5, max_num_seqs=16) as service:
        yield service


# ---------------------------------------------------------------- from its acceptance to its end


def test_a_batch_is_stored_runs_and_is_counted(service: Service) -> None:
    items, batches = (service.metric(f"phalanx_{name}_total") for name in ("items", "batches"))
    prompts = ["a", {"prompt": "b", "custom_id": "b", "metadata": {"row": 2}}, 7]
    new = submit(service, prompts, sampling_params=SHORT, metadata={"mine": [1]}, priority=2)
    assert new["id"].startswith("batchgen-") and new["object"] == "batch_generation.batch"
    assert new["status"] in ("queued", "in_progress") and new["metadata"] == {"mine": [1]} and new["priority"] == 2
    assert new["request_counts"] == {"total": 3, "ok": 0, "error": 0, "cancelled": 0, "timeout": 0}
    done = ended(service, new)
    assert (done["status"], done["reason"], done["last_seq"]) == ("completed", None, 3)
    assert done["request_counts"] == {"total": 3, "ok": 2, "error": 1, "cancelled": 0, "timeout": 0}
    assert done["usage"]["completion_tokens"] == 8
    assert done["created_at"] <= done["started_at"] <= done["ended_at"]
    assert done["stats"]["wall_s"] > 0 and done["predicted_s_left"] is None
    *results, summary = read(service, new)
    assert [result["seq"] for result in results] == [1, 2, 3] and next(iter(results[0])) == "seq"
    by_index = sorted(results, key=lambda result: int(result["index"]))
    assert [result["status"] for result in by_index] == ["ok", "ok", "error"]
    assert (by_index[1]["custom_id"], by_index[1]["metadata"]) == ("b", {"row": 2})
    assert by_index[2]["error"]["param"] == "prompts[2]"
    assert summary["object"] == "batch_generation.summary" and summary["status"] == "completed"
    assert {name: summary[name] for name in ("request_counts", "usage", "stats")} == {
        name: done[name] for name in ("request_counts", "usage", "stats")
    }
    assert service.metric("phalanx_items_total") == items + 3 and service.metric("phalanx_batches_total") == batches + 1


def test_results_are_read_from_any_seq_and_gzipped(service: Service) -> None:
    batch = submit(service, [f"prompt {index}" for index in range(700)], sampling_params=SHORT)
    followed = read(service, batch, follow=1)
    assert followed[0]["object"] == "batch_generation.progress" and followed[-1]["status"] == "completed"
    results = [line for line in followed if line["object"] == "batch_generation.result"]
    assert [result["seq"] for result in results] == list(range(1, 701))
    assert sorted(result["index"] for result in results) == list(range(700))
    assert read(service, batch, after=690)[:-1] == results[690:]
    page = read(service, batch, after=100, limit=50)
    assert page[:-1] == results[100:150] and page[-1]["object"] == "batch_generation.progress"
    assert [line["object"] for line in read(service, batch, after=700)] == ["batch_generation.summary"]
    headers = {"Accept-Encoding": "gzip"}
    with service.client.stream("GET", f"{BATCH}/{batch['id']}/results", headers=headers) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        packed = b"".join(answer.iter_raw())
    assert [json.loads(line) for line in gzip.decompress(packed).splitlines()][:-1] == results
    assert len(packed) < sum(len(json.dumps(result)) for result in results) / 2
    assert service.client.delete(f"{BATCH}/{batch['id']}").status_code == 200


@pytest.mark.parametrize(
    "asked", [{"after": -1}, {"after": 2**53 + 1}, {"after": 10**30}, {"limit": 0}, {"limit": 2**63}]
)
def test_numbers_that_no_result_has_are_refused(service: Service, asked: dict[str, int]) -> None:
    batch = submit(service, ["a"], sampling_params=SHORT)
    answer = service.client.get(f"{BATCH}/{batch['id']}/results", params=asked)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(asked)))
    for large in ({"after": 2**53}, {"after": 2**53, "limit": 2**53}):
        assert service.client.get(f"{BATCH}/{batch['id']}/results", params=large).status_code == 200


def test_batches_are_listed_page_by_page_and_by_status(service: Service) -> None:
    ids = [submit(service, ["x"], sampling_params=SHORT)["id"] for _ in range(5)]
    endless = submit(service, ["x"], sampling_params=ENDLESS)
    for batch_id in ids:
        ended(service, {"id": batch_id})
    seen, after = [], {}
    for number in range(2):
        page = service.client.get(BATCH, params={"limit": 2, "status": "completed,failed", **after}).json()
        assert page["object"] == "list" and (page["first_id"], page["last_id"]) == tuple(
            batch["id"] for batch in page["data"]
        )
        seen += [batch["id"] for batch in page["data"]]
        assert page["has_more"] or number == 1
        after = {"after": page["last_id"]}
    assert seen == ids[:0:-1]
    going = service.client.get(BATCH, params={"status": "queued, in_progress"}).json()
    assert [batch["id"] for batch in going["data"]] == [endless["id"]] and not going["has_more"]
    for query, param in (("status=done", "status"), ("limit=0", "limit"), ("limit=1001", "limit")):
        answer = service.client.get(f"{BATCH}?{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert code(service.client.get(BATCH, params={"after": "batchgen-0"})) == (404, "batch_not_found")
    cancel(service, endless)


def test_a_batch_of_another_tenant_is_not_there_and_an_admin_sees_it(service: Service) -> None:
    batch = submit(service, ["x"], sampling_params=SHORT)
    ended(service, batch)
    path = f"{BATCH}/{batch['id']}"
    theirs = httpx.Client(base_url=service.url, headers=bearer(SECRETS["theirs"]), timeout=60)
    boss = httpx.Client(base_url=service.url, headers=bearer(SECRETS["boss"]), timeout=60)
    with theirs, boss:
        for method, route in (
            *(("GET", path), ("GET", f"{path}/results"), ("POST", f"{path}/cancel"), ("POST", f"{path}/resume")),
            *(("DELETE", path), ("GET", f"{BATCH}?after={batch['id']}")),
        ):
            answer = theirs.request(method, route)
            assert code(answer) == (404, "batch_not_found"), (method, route)
        assert theirs.get(BATCH).json()["data"] == []
        assert boss.get(path).json()["id"] == batch["id"]
        assert batch["id"] in [found["id"] for found in boss.get(BATCH).json()["data"]]
        assert boss.delete(path).json() == {
            "id": batch["id"],
            "object": "batch_generation.deleted",
            "deleted": True,
        }
    for answer in (service.client.get(path), service.client.get(f"{path}/results"), service.client.delete(path)):
        assert code(answer) == (404, "batch_not_found")


# ---------------------------------------------------------------- cancelled, resumed, out of time


def test_a_cancelled_batch_keeps_what_it_has_and_runs_the_rest_when_it_is_resumed(service: Service) -> None:
    batch = submit(service, SHORT_AND_LONG, sampling_params=LONG)
    until(lambda: look(service, batch)["last_seq"] == 1, "there is no first result")
    for refused in (act(service, batch, "resume"), service.client.delete(f"{BATCH}/{batch['id']}")):
        assert code(refused) == (409, "wrong_state")
    done = cancel(service, batch)
    assert done["status"] == "cancelled"
    assert done["request_counts"] == {"total": 4, "ok": 1, "error": 0, "cancelled": 3, "timeout": 0}
    assert act(service, batch, "cancel").json() == done, "one that has ended stays as it is"
    first, *rest, summary = read(service, batch)
    assert (first["index"], first["status"]) == (0, "ok") and summary["status"] == "cancelled"
    assert [(line["index"], line["status"], line["seq"]) for line in rest] == [(n, "cancelled", 1) for n in (1, 2, 3)]
    *made_up, summary = read(service, batch, after=1, limit=1)
    assert made_up == rest and summary["object"] == "batch_generation.summary", "no after goes on from one of them"
    resumed = act(service, batch, "resume").json()
    assert resumed["request_counts"]["cancelled"] == 0 and resumed["ended_at"] is None
    results = [line for line in read(service, batch, follow=1) if line["object"] == "batch_generation.result"]
    assert [line["seq"] for line in results] == [1, 2, 3, 4] and results[0] == first
    assert ended(service, batch)["usage"]["completion_tokens"] == 4 + 3 * 300
    assert dispatched(service, batch).count(0) == 1
    until(service.is_idle, "something still runs")


def test_results_that_were_taken_back_leave_gaps_that_no_reader_waits_for(service: Service) -> None:
    """What ends with a retryable error, or is lost with a cancel, runs again, under a higher number."""
    batch = submit(service, ["a", "b"], sampling_params=SHORT)
    ended(service, batch)
    assert code(act(service, batch, "resume", unknown=1)) == (400, "invalid_request")
    assert code(act(service, batch, "resume", timeout_s=1e300)) == (400, "invalid_request")
    assert act(service, batch, "resume").json()["status"] == "queued"
    done = ended(service, batch)
    assert done["status"] == "completed" and sorted(dispatched(service, batch)) == [0, 1]


def test_what_has_no_result_when_its_time_is_over_is_a_timeout(service: Service) -> None:
    batch = submit(service, SHORT_AND_LONG, sampling_params=LONG, timeout_s=0.5)
    assert batch["deadline_at"] is not None
    done = ended(service, batch)
    assert (done["status"], done["reason"]) == ("expired", "its timeout_s is over")
    assert (done["request_counts"]["ok"], done["request_counts"]["timeout"]) == (1, 3)
    assert [line["status"] for line in read(service, batch)] == ["ok", "timeout", "timeout", "timeout", "expired"]
    assert act(service, batch, "resume", timeout_s=0.3).json()["deadline_at"] is not None
    assert ended(service, batch)["status"] == "expired"


@pytest.mark.parametrize("pause_s", [0.0, 0.003, 0.01, 0.03])
def test_it_can_be_cancelled_at_any_moment(service: Service, pause_s: float) -> None:
    batch = submit(service, ["x"] * 40, sampling_params=SHORT)
    threading.Event().wait(pause_s)
    act(service, batch, "cancel")
    counts = ended(service, batch)["request_counts"]
    assert counts["ok"] + counts["cancelled"] == 40
    *results, _ = read(service, batch)
    assert sorted(result["index"] for result in results) == list(range(40))
    assert [result["status"] for result in results].count("ok") == counts["ok"]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True, "stream": True}, "stream"),
        ({"background": True, "metadata": [1]}, "metadata"),
        ({"background": True, "metadata": {"a": "x" * 70_000}}, "metadata"),
        ({"background": True, "timeout_s": 1e300}, "timeout_s"),
        ({"background": True, "expires_after_s": 0}, "expires_after_s"),
        ({"background": True, "sampling_params": {"temperature": -1}}, "sampling_params.temperature"),
        ({"metadata": {}}, "metadata"),
        ({"expires_after_s": 1}, "expires_after_s"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_stored(service: Service, fields: Json, param: str) -> None:
    before = service.client.get(BATCH).json()["first_id"]
    answer = service.post(["x"], **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert service.client.get(BATCH).json()["first_id"] == before


def test_no_more_is_stored_than_quotas_allow(service: Service) -> None:
    theirs = bearer(SECRETS["theirs"])
    key = {"Idempotency-Key": "full"}

    def ask(items: int) -> httpx.Response:
        request = {"prompts": ["x"] * items, "background": True, "sampling_params": SHORT}
        return service.client.post(BATCH, json=request, headers=theirs | key)

    assert code(ask(1001)) == (413, "quota_exceeded")
    assert ask(1000).status_code == 202, "what was refused keeps neither key nor room"
    answer = service.client.post(BATCH, json={"prompts": ["x"], "background": True}, headers=theirs)
    assert code(answer) == (429, "quota_exceeded") and int(answer.headers["Retry-After"]) > 0


# ---------------------------------------------------------------- while nothing can be stored


def test_while_the_journal_takes_no_writes_what_runs_waits_and_nothing_is_lost(
    service: Service, folder: Path, tmp_path: Path
) -> None:
    service.errors_expected = True
    batch = submit(service, ["x"] * 3, sampling_params={"max_tokens": 40})
    until(lambda: look(service, batch)["status"] == "in_progress", "it does not begin")
    for path in folder.glob(f"{FILE_NAME}*"):
        path.rename(tmp_path / path.name)
    health = until(lambda: service.health() if service.health()["status"] == "degraded" else None, "it is not told")
    assert health is not None and health["journal"]["status"] == "unavailable"
    refused = service.post(["x"], background=True)
    assert code(refused) == (503, "journal_unavailable") and int(refused.headers["Retry-After"]) > 0
    assert code(with_key(service, "while away", ["x"])) == (503, "journal_unavailable")
    assert code(act(service, batch, "cancel")) == (503, "journal_unavailable")
    assert service.batch(["attached"])["request_counts"]["ok"] == 1
    for path in tmp_path.glob(f"{FILE_NAME}*"):
        path.rename(folder / path.name)
    assert ended(service, batch)["request_counts"]["ok"] == 3
    assert len(dispatched(service, batch)) == 3
    assert with_key(service, "while away", ["x"], sampling_params=SHORT).status_code == 200
