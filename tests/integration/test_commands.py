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


class Gateway(http.server.BaseHTTPRequestHandler):
    """Answers as a gateway does, and, under another path, as something else."""

    def do_GET(self) -> None:  # http.server's protocol
        bodies = {"/v1/ranks": (200, RANKS), "/other/v1/ranks": (200, "<html>")}
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


def test_help_and_version_need_no_heavy_imports() -> None:
    code = "import sys, phalanx.cli; sys.exit(any(m in sys.modules for m in ('pydantic', 'httpx', 'fastapi', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
