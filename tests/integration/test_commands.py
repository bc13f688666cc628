"""`phalanx ranks` against what listens, or does not; and how little `phalanx --help` needs."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from phalanx.cli import main

RANKS = json.dumps({"object": "list", "data": [{"object": "rank", "rank": 0, "state": "ready", "pid": 321}]})


API_KEY = "phx-a-key"


@pytest.fixture(autouse=True)
def without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable of whoever runs the tests is none of theirs."""
    monkeypatch.delenv("PHALANX_API_KEY", raising=False)


class Gateway(http.server.BaseHTTPRequestHandler):
    """Answers as a gateway does, and, under another path, as something else."""

    def do_GET(self) -> None:  # http.server's protocol
        known = self.headers["Authorization"] == f"Bearer {API_KEY}"
        bodies = {
            "/v1/ranks": (200, RANKS),
            "/other/v1/ranks": (200, "<html>"),
            "/closed/v1/ranks": (200, RANKS) if known else (401, "{}"),
        }
        status, body = bodies.get(self.path, (404, "{}"))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Nothing: stderr is what the tests look at."""


@pytest.fixture
def address() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever, name="gateway")
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def code_of(*args: str) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main(["ranks", *args])
    return ended.value.code


def test_ranks_are_shown(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("--url", f"http://{address}/") == 0
    assert "321" in capsys.readouterr().out
    assert code_of("--url", address) == 0


def test_json_is_the_gateways_own(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("--url", address, "--json") == 0
    assert capsys.readouterr().out == RANKS + "\n"


def test_no_gateway_is_one_sentence(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    for url, reason in [
        ("127.0.0.1:1", "refused"),
        (f"{address}/none", "it answers 404"),
        (f"{address}/other", "it answers, but not with ranks"),
        ("http://[", "no gateway at"),
    ]:
        assert code_of("--url", url) == 1
        said = capsys.readouterr().err
        assert reason in said
        assert said.startswith("phalanx: no gateway at http://")
        assert said.count("\n") == 1


def test_a_gateway_with_keys_is_shown_one(
    address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{address}/closed"
    assert code_of("--url", url, "--api-key", API_KEY) == 0
    monkeypatch.setenv("PHALANX_API_KEY", f"{API_KEY}\n")  # as it comes from a file
    assert code_of("--url", url, "--json") == 0
    capsys.readouterr()
    for key, said in [
        ("", "asks for an API key: give it one with PHALANX_API_KEY or --api-key"),
        ("phx-wrong", "does not know this API key: give it another"),
        ("phx-ü", "has characters that no key has"),
        ("a\r\nX: y", "has characters that no key has"),
    ]:
        monkeypatch.setenv("PHALANX_API_KEY", key)
        assert code_of("--url", url) == 1
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1 and "wrong" not in err


def test_help_and_version_need_no_heavy_imports() -> None:
    code = "import sys, phalanx.cli; sys.exit(any(m in sys.modules for m in ('pydantic', 'httpx', 'fastapi', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
