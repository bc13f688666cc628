"""The output and error files of batches over HTTP, also while these run. Their journal is written beforehand."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.files.names import new_file_id
from app.journal.opening import open_journal
from app.journal.place import FolderPlace
from app.journal.records import NewBatch, NewItem, NewOutput, NewResult, Quotas
from app.journal.states import BatchKind, BatchState, OutputKind, ResultStatus
from tests.detached import code
from tests.files import FILES, listed, read, uploaded
from tests.service import Service, starting

LINES = [b'{"custom_id": "%d"}\n' % number for number in range(40_000)]  # several windows
ERROR = b'{"custom_id": "refused"}\n'
IDS = {(run, kind): new_file_id() for run in ("held", "ended") for kind in OutputKind}


async def write(folder: Path) -> None:
    journal = await open_journal(FolderPlace(folder), Quotas(), lambda health, reason: None)
    for run in ("held", "ended"):
        # Without the settings of a real one: it is held, and stays as it is.
        new = NewBatch(id=run, tenant="default", model="m", created_at=time.time(), kind=BatchKind.OPENAI)
        batch = await journal.create(new)
        await journal.append(batch.ordinal, [NewItem(b"{}")] * (len(LINES) + 2))
        await journal.seal(batch.ordinal)
        outputs = [NewOutput(id=IDS[run, kind], holds=kind, filename=f"{run}_{kind}.jsonl") for kind in OutputKind]
        await journal.files.begin_outputs(batch, outputs)
        await journal.put_results(
            batch.ordinal,
            [NewResult(index=index, status=ResultStatus.OK, body=line[:-1]) for index, line in enumerate(LINES)],
        )
        if run == "held":
            refused = NewResult(index=len(LINES), status=ResultStatus.ERROR, body=ERROR[:-1])
            await journal.put_results(batch.ordinal, [refused])
        else:
            await journal.set_state(batch.ordinal, BatchState.EXPIRED)
            await journal.files.drop_empty_outputs(batch.ordinal)
    await journal.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("outputs") / "data"
    asyncio.run(write(folder))
    with starting("--data-dir", str(folder), dp_size=1) as service:
        yield service


def content(service: Service, run: str, kind: OutputKind, offset: int | None = None, **headers: str) -> httpx.Response:
    asked = {} if offset is None else {"offset": offset}
    return service.client.get(f"{FILES}/{IDS[run, kind]}/content", params=asked, headers=headers)


def test_a_batch_that_has_not_ended_is_read_from_line_to_line(service: Service) -> None:
    answer = content(service, "held", OutputKind.OUTPUT)
    assert answer.content == b"".join(LINES) and answer.headers["Content-Type"] == "application/jsonl"
    assert (answer.headers["X-Incomplete"], answer.headers["X-Last-Line"]) == ("true", str(len(LINES)))
    for offset in (0, 1, 17_003, len(LINES) - 1):
        answer = content(service, "held", OutputKind.OUTPUT, offset)
        assert answer.content == b"".join(LINES[offset:]) and answer.headers["X-Last-Line"] == str(len(LINES))
        assert answer.headers["Content-Length"] == str(len(answer.content))
    for offset in (len(LINES), len(LINES) + 100):
        assert (content(service, "held", OutputKind.OUTPUT, offset).content, answer.status_code) == (b"", 200)
    errors = content(service, "held", OutputKind.ERROR)
    assert (errors.content, errors.headers["X-Last-Line"], errors.headers["X-Incomplete"]) == (ERROR, "1", "true")


def test_a_batch_that_has_ended_has_all_its_lines_and_no_empty_file(service: Service) -> None:
    answer = content(service, "ended", OutputKind.OUTPUT, len(LINES) - 2)
    assert answer.content == b"".join(LINES[-2:])
    assert (answer.headers["X-Incomplete"], answer.headers["X-Last-Line"]) == ("false", str(len(LINES)))
    assert code(content(service, "ended", OutputKind.ERROR)) == (404, "file_not_found")
    found = {file["filename"]: file for file in listed(service, purpose="batch_output")["data"]}
    assert set(found) == {"held_output.jsonl", "held_error.jsonl", "ended_output.jsonl"}
    assert found["ended_output.jsonl"]["bytes"] == sum(map(len, LINES))


def test_bytes_of_it_can_be_asked_for_instead(service: Service) -> None:
    everything = b"".join(LINES)
    answer = content(service, "held", OutputKind.OUTPUT, Range="bytes=500000-600000")
    assert (answer.status_code, answer.content) == (206, everything[500_000:600_001])
    answer = content(service, "held", OutputKind.OUTPUT, Range=f"bytes={len(everything)}-")
    assert code(answer) == (416, "range_not_satisfiable")
    both = content(service, "held", OutputKind.OUTPUT, 5, Range="bytes=0-1")
    assert code(both) == (400, "invalid_request") and both.json()["error"]["param"] == "offset"


def test_an_uploaded_file_has_no_lines_to_count(service: Service) -> None:
    file = uploaded(service, b"a\nb\n")
    assert "X-Incomplete" not in read(service, file).headers
    answer = service.client.get(f"{FILES}/{file['id']}/content", params={"offset": 1})
    assert answer.status_code == 400 and "this file was uploaded" in answer.json()["error"]["message"]
