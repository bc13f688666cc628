"""What tests do with /v1/files, over HTTP."""

import httpx

from tests.service import Json, Service, bearer

FILES = "/v1/files"
MIB = 1024 * 1024


def upload(
    service: Service, content: bytes = b"content", name: str = "a.txt", api_key: str | None = None, **fields: str
) -> httpx.Response:
    data = {"purpose": "user_data"} | fields
    return service.client.post(
        FILES, data=data, files={"file": (name, content)}, headers=bearer(api_key) if api_key else None
    )


def uploaded(service: Service, content: bytes = b"content", name: str = "a.txt", **fields: str) -> Json:
    answer = upload(service, content, name, **fields)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def listed(service: Service, api_key: str | None = None, **asked: str | int) -> Json:
    answer = service.client.get(FILES, params=asked, headers=bearer(api_key) if api_key else None)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def read(service: Service, file: Json, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.client.get(f"{FILES}/{file['id']}/content", headers=named)


def form(*fields: tuple[str, str | None, bytes]) -> tuple[bytes, dict[str, str]]:
    """A form's bytes with its fields in this order (name, filename, content), and its header."""
    body = b""
    for name, filename, content in fields:
        named = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
        body += f"--line\r\nContent-Disposition: {named}\r\n\r\n".encode() + content + b"\r\n"
    return body + b"--line--\r\n", {"Content-Type": "multipart/form-data; boundary=line"}
