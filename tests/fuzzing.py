"""Requests of all kinds, made up by Schemathesis from a running service's /openapi.json."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from app.keys.store import KeysFile
from tests.detached import SHORT, submit
from tests.service import BATCH, Service, until

COMMAND = str(Path(sys.executable).with_name("schemathesis"))
HOOKS = str(Path(__file__).with_name("fuzzing_hooks.py"))
MODEL = "phalanx-simulated"
IDS = 4  # of files and batches that are there when it begins: some requests delete them
CONFIGURATION = r"""
headers = {{ Authorization = "Bearer {key}" }}
continue-on-failure = true
request-timeout = 60.0
[generation]
deterministic = true
database = "none"
max-examples = {examples}
# Ids that mean something, beside those that are made up.
[dictionaries]
models = {{ values = ["{model}"] }}
files = {{ values = {files} }}
batches = {{ values = {batches} }}
[parameters]
"body.model" = {{ dictionary = "models", probability = 0.7 }}
"body.input_file_id" = {{ dictionary = "files", probability = 0.7 }}
"path.file_id" = {{ dictionary = "files", probability = 0.5 }}
"path.batch_id" = {{ dictionary = "batches", probability = 0.5 }}
# A valid request may still be refused, by a limit that is a setting, or by the engine.
[checks.positive_data_acceptance]
enabled = false
# An invalid prompt is the error of its item, and the batch is answered with 200.
[[operations]]
include-path = "/v1/batch_generate"
checks.negative_data_rejection.enabled = false
"""


@dataclass(frozen=True)
class Keys:
    """What requests show."""

    file: Path
    user: str
    admin: str

    @classmethod
    def made(cls, folder: Path) -> "Keys":
        """In a file of this folder."""
        keys = KeysFile(folder / "keys.json")
        return cls(keys.path, keys.create("user").secret, keys.create("operator", admin=True).secret)


@dataclass(frozen=True)
class Fuzzing:
    """How thoroughly: `examples` are for each route, beside the edges of its schema; `more` are lines of Schemathesis's
    configuration."""

    examples: int
    more: str = ""
    deadline_s: float = 900.0

    def run(self, service: Service, folder: Path, key: str, *flags: str) -> None:
        """Sends them with this key. Fails unless each is answered as the document says, and the gateway never fails."""
        files, batches = _stored(service)
        configuration = CONFIGURATION.format(
            key=key, examples=self.examples, model=MODEL, files=json.dumps(files), batches=json.dumps(batches)
        )
        file = folder / "schemathesis.toml"
        file.write_text(configuration + self.more)
        done = subprocess.run(
            [COMMAND, "--config-file", str(file), "run", f"{service.url}/openapi.json", "--no-color", *flags],
            cwd=folder,
            env=os.environ | {"SCHEMATHESIS_HOOKS": HOOKS},
            capture_output=True,
            text=True,
            timeout=self.deadline_s,
            check=False,
        )
        print(done.stdout)  # noqa: T201  pytest shows it with a failure
        assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-1_000:]


def check_survived(service: Service) -> None:
    """It has not failed on any request, has nothing left of them, and no rank was lost."""
    assert service.metric("phalanx_http_requests_total", status="500") == 0
    assert service.batch(["still fine"])["request_counts"]["ok"] == 1
    for stored in service.client.get(BATCH, params={"limit": 1000}).json()["data"]:
        service.client.post(f"{BATCH}/{stored['id']}/cancel")
    until(service.is_idle, "something is still there")
    assert [rank["incarnation"] for rank in service.ranks()] == [1, 1]


def _stored(service: Service) -> tuple[list[str], list[str]]:
    """Ids of files, and of batches of both kinds."""
    files, batches = [], []
    for number in range(IDS):
        batches.append(submit(service, ["Hello"], sampling_params=SHORT)["id"])
        line = {"custom_id": "a", "method": "POST", "url": BATCH, "body": {"prompt": f"number {number}"}}
        content = {"file": ("in.jsonl", json.dumps(line).encode())}
        file = service.client.post("/v1/files", data={"purpose": "batch"}, files=content).json()
        files.append(file["id"])
        asked = {"input_file_id": file["id"], "endpoint": BATCH, "completion_window": "1h"}
        batches.append(service.client.post("/v1/batches", json=asked).json()["id"])
    return files, batches
