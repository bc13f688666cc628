"""OpenAI's Files API over HTTP: uploads, lists, parts of a content, and what is refused."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.keys.store import KeysFile
from tests.detached import code
from tests.files import FILES, MIB, form, listed, read, upload, uploaded
from tests.service import Json, Service, bearer, starting, until

LARGEST = 3 * MIB
SECRETS: dict[str, str] = {}
FLAGS = ("--max-file-bytes", str(LARGEST), "--max-tenant-bytes", "20MiB", "--max-tenant-files", "12")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Its client is `ours`, no admin. No rank is needed."""
    folder = tmp_path_factory.mktemp("files")
    keys = KeysFile(folder / "keys.json")
    for name in ("ours", "theirs", "boss"):
        SECRETS[name] = keys.create(name, tenant=name, admin=name == "boss").secret
    flags = ("--data-dir", str(folder / "data"), "--api-keys-file", str(keys.path), "--retention", "60d", *FLAGS)
    with starting(*flags, dp_size=1, api_key=SECRETS["ours"]) as service:
        yield service


@pytest.fixture(autouse=True)
def empty(service: Service) -> Iterator[None]:
    """Files of one test are not there in the next."""
    yield
    for file in listed(service, api_key=SECRETS["boss"])["data"]:
        assert service.client.delete(f"{FILES}/{file['id']}", headers=bearer(SECRETS["boss"])).status_code == 200


# ---------------------------------------------------------------- what goes in comes out


def test_a_file_is_stored_found_read_and_deleted(service: Service) -> None:
    content = b"".join(b'{"custom_id": "%d"}\n' % number for number in range(100_000))
    began = int(time.time())
    file = uploaded(service, content, "in.jsonl", purpose="batch")
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": len(content),
        "created_at": file["created_at"],
        "expires_at": file["created_at"] + 60 * 86400,  # as long as a batch is kept
        "filename": "in.jsonl",
        "purpose": "batch",
        "status": "processed",
    }
    assert began <= file["created_at"] <= time.time()
    assert service.client.get(f"{FILES}/{file['id']}").json() == file
    answer = read(service, file)
    assert answer.content == content and answer.headers["Content-Type"] == "application/jsonl"
    assert answer.headers["Content-Length"] == str(len(content)) and answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''in.jsonl"
    deleted = service.client.delete(f"{FILES}/{file['id']}")
    assert deleted.json() == {"id": file["id"], "object": "file", "deleted": True}
    for gone in (
        read(service, file),
        service.client.get(f"{FILES}/{file['id']}"),
        service.client.delete(f"{FILES}/{file['id']}"),
    ):
        assert code(gone) == (404, "file_not_found")


def test_the_fields_of_a_form_may_come_in_any_order(service: Service) -> None:
    body, headers = form(
        ("file", "C:/folder/grün.txt", b"\r\n--lin\r\n"),
        ("expires_after[seconds]", None, b"3600"),
        ("purpose", None, b"vision"),
        ("expires_after[anchor]", None, b"created_at"),
    )
    file = service.client.post(FILES, content=body, headers=headers).json()
    assert (file["filename"], file["purpose"], file["bytes"]) == ("grün.txt", "vision", 9)
    assert file["expires_at"] == file["created_at"] + 3600
    answer = read(service, file)
    assert answer.content == b"\r\n--lin\r\n" and answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"].endswith("''gr%C3%BCn.txt")


def test_parts_of_a_content_are_read(service: Service) -> None:
    content = bytes(range(256)) * 4096  # several pieces
    file = uploaded(service, content)
    assert file["expires_at"] is None
    for asked, start, stop in (
        ("0-0", 0, 1),
        ("262140-262150", 262140, 262151),
        ("1048570-", 1048570, MIB),
        ("-3", MIB - 3, MIB),
    ):
        answer = read(service, file, Range=f"bytes={asked}")
        assert answer.status_code == 206 and answer.content == content[start:stop]
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{MIB}"
        assert answer.headers["Content-Length"] == str(stop - start)
    answer = read(service, file, Range=f"bytes={MIB}-")
    assert code(answer) == (416, "range_not_satisfiable") and answer.headers["Content-Range"] == f"bytes */{MIB}"
    tag = read(service, file, Range="bytes=0-0").headers["ETag"]
    assert read(service, file, Range="bytes=0-0", If_Range=tag).status_code == 206
    assert read(service, file, Range="bytes=0-0", If_Range='"another"').content == content
    empty = uploaded(service, b"")
    answer = read(service, empty)
    assert (answer.status_code, answer.content, answer.headers["Content-Length"]) == (200, b"", "0")


def test_lists_have_cursors(service: Service) -> None:
    assert listed(service) == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    purposes = ("batch", "user_data", "batch", "assistants", "fine-tune")
    ids = [uploaded(service, purpose=purpose)["id"] for purpose in purposes][::-1]
    page = listed(service)
    assert [file["id"] for file in page["data"]] == ids and not page["has_more"]
    assert (page["first_id"], page["last_id"]) == (ids[0], ids[-1])
    assert [file["id"] for file in listed(service, order="asc")["data"]] == ids[::-1]
    page = listed(service, limit=2)
    assert [file["id"] for file in page["data"]] == ids[:2] and page["has_more"]
    service.client.delete(f"{FILES}/{ids[1]}")  # as many do while they go through a list
    page = listed(service, limit=2, after=ids[1])
    assert [file["id"] for file in page["data"]] == ids[2:4] and page["has_more"]
    assert [file["id"] for file in listed(service, after=ids[3])["data"]] == ids[4:]
    assert [file["id"] for file in listed(service, purpose="batch")["data"]] == [ids[2], ids[4]]
    for wrong in ({"limit": 0}, {"limit": 10_001}, {"order": "up"}, {"after": "file-1"}, {"purpose": "batch,evals"}):
        answer = service.client.get(FILES, params=wrong)  # type: ignore[arg-type]
        assert answer.status_code == 400 and answer.json()["error"]["param"] in wrong


def test_another_tenants_file_is_not_there(service: Service) -> None:
    file = uploaded(service)
    for key, status in (("theirs", 404), ("boss", 200)):
        headers = bearer(SECRETS[key])
        for path in (f"{FILES}/{file['id']}", f"{FILES}/{file['id']}/content"):
            assert service.client.get(path, headers=headers).status_code == status
        assert len(listed(service, api_key=SECRETS[key])["data"]) == (status == 200)
        deleted = service.client.delete(f"{FILES}/{file['id']}", headers=headers)
        assert deleted.status_code == status
    assert listed(service)["data"] == []


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"purpose": "batches"}, "purpose", "purpose is 'batches': it must be batch, for the input of a batch, or"),
        ({"purpose": ""}, "purpose", "purpose is ''"),
        ({"purpose": "x" * 5000}, "purpose", "purpose has more than 1024 bytes"),
        ({"purpos": "batch"}, "purpos", "unknown field 'purpos': did you mean 'purpose'?"),
        ({"expires_after[seconds]": "3600"}, "expires_after[anchor]", "expires_after[anchor] is ''"),
        (
            {"expires_after[anchor]": "last_active_at", "expires_after[seconds]": "3600"},
            "expires_after[anchor]",
            "it must be created_at",
        ),
        *(
            (
                {"expires_after[anchor]": "created_at", "expires_after[seconds]": seconds},
                "expires_after[seconds]",
                f"is {seconds!r}: it must be a whole number from 3600 to 2592000",
            )
            for seconds in ("3599", "2592001", "1h", "-3600", "3600.5", "")
        ),
    ],
)
def test_a_form_that_is_wrong_is_refused_by_the_field(
    service: Service, fields: dict[str, str], param: str, said: str
) -> None:
    answer = upload(service, **fields)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and said in error["message"]
    assert listed(service)["data"] == []


def test_a_form_that_lacks_something_or_has_it_twice_is_refused(service: Service) -> None:
    file, purpose = ("file", "a", b"content"), ("purpose", None, b"batch")
    for fields, said in (
        ([purpose], "the form has no field 'file'"),
        ([file], "the form has no field 'purpose'"),
        ([file, purpose, purpose], "the form has the field 'purpose' twice"),
        ([file, file, purpose], "the form has the field 'file' twice"),
        ([("file", None, b"content"), purpose], "file has no filename"),
        ([("file", "", b"content"), purpose], "the file's name is ''"),
        ([("file", "x" * 300, b"content"), purpose], "1 to 255 printable characters"),
    ):
        body, headers = form(*fields)
        answer = service.client.post(FILES, content=body, headers=headers)
        assert answer.status_code == 400 and said in answer.json()["error"]["message"], answer.text
    answer = service.client.post(FILES, json={"purpose": "batch"})
    assert code(answer) == (415, "unsupported_media_type")
    answer = service.client.post(FILES, content=b"--line", headers=form()[1])
    assert code(answer) == (400, "invalid_form")
    assert listed(service)["data"] == []
    assert service.client.get(f"{FILES}/file-1").status_code == 404


def test_a_file_that_is_too_large_is_refused_before_or_while_it_comes(service: Service) -> None:
    assert uploaded(service, b"x" * LARGEST)["bytes"] == LARGEST
    answer = upload(service, b"x" * (LARGEST + 1))
    assert code(answer) == (413, "file_too_large") and "--max-file-bytes" in answer.json()["error"]["message"]
    body, headers = form(("purpose", None, b"batch"), ("file", "a", b"x" * (LARGEST + MIB)))
    assert code(service.client.post(FILES, content=body, headers=headers)) == (413, "file_too_large")
    parts = (body[start : start + MIB] for start in range(0, len(body), MIB))  # without a length
    assert code(service.client.post(FILES, content=parts, headers=headers)) == (413, "file_too_large")
    behind = form(("purpose", None, b"batch"), ("file", "a", b"x"))[0] + b"x" * (LARGEST + MIB)
    assert code(service.client.post(FILES, content=iter([behind]), headers=headers)) == (413, "file_too_large")
    assert len(listed(service)["data"]) == 1


def test_files_count_for_the_tenants_quota(service: Service) -> None:
    for _ in range(6):
        uploaded(service, b"x" * LARGEST)
    answer = upload(service, b"x" * LARGEST)
    assert code(answer) == (429, "quota_exceeded")
    assert f"tenant ours stores {6 * LARGEST} bytes, and" in answer.json()["error"]["message"]
    assert upload(service, b"x" * LARGEST, api_key=SECRETS["theirs"]).status_code == 200
    for _ in range(6):
        uploaded(service, b"")
    answer = upload(service, b"")
    assert code(answer) == (429, "quota_exceeded") and "stores 12 files" in answer.json()["error"]["message"]
    service.client.delete(f"{FILES}/{listed(service)['first_id']}")
    assert upload(service, b"").status_code == 200


def test_nothing_stays_of_an_upload_whose_client_goes_away(service: Service) -> None:
    body, headers = form(("purpose", None, b"batch"), ("file", "a", b"x" * LARGEST))
    before = service.metric("phalanx_held_bytes")
    with socket.create_connection((service.host, service.port)) as client:
        head = (
            f"POST {FILES} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
            f"Authorization: Bearer {SECRETS['theirs']}\r\nContent-Type: {headers['Content-Type']}\r\n\r\n"
        )
        client.sendall(head.encode() + body[: 2 * MIB])
        until(lambda: service.metric("phalanx_held_bytes") > before, "it is not received")
    until(lambda: service.metric("phalanx_held_bytes") == before, "something is still held")
    (refused,) = [fact for fact in service.facts("request_refused") if fact["code"] == "incomplete_body"]
    assert (refused["route"], refused["status"]) == (FILES, 400)
    assert listed(service, api_key=SECRETS["theirs"])["data"] == []


# ---------------------------------------------------------------- what stays


def test_files_outlive_the_service_and_expire(tmp_path: Path) -> None:
    flags = ("--data-dir", str(tmp_path / "data"), "--log-level", "info")
    body, headers = form(("purpose", None, b"user_data"), ("file", "kept.txt", b"kept"))
    with starting(*flags, dp_size=1) as service:
        kept: Json = service.client.post(FILES, content=body, headers=headers).json()
    with starting(*flags, "--retention", "1s", dp_size=1) as service:
        body, headers = form(("purpose", None, b"batch"), ("file", "in.jsonl", json.dumps({}).encode()))
        file: Json = service.client.post(FILES, content=body, headers=headers).json()
        assert file["expires_at"] == pytest.approx(time.time() + 1, abs=2)
        until(lambda: read(service, file).status_code == 404, "it does not expire")
        until(lambda: service.facts("files_expired", files=1), "nobody removes it")
        assert read(service, kept).text == "kept" and listed(service)["data"] == [kept]
