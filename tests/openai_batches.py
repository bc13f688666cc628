"""A batch of OpenAI's API and its client, who goes on with every gateway where it was."""

import json
import time

import httpx

from tests.files import FILES, upload
from tests.service import DEADLINE_S, Json, Service, as_object

BATCHES = "/v1/batches"
ENDED = ("completed", "failed", "expired", "cancelled")
PLACES = ("output_file_id", "error_file_id")
UNANSWERED = ("batch_expired", "batch_cancelled")  # the codes of lines that had no turn, which count as nothing
RESTARTED = "was restarted"  # what holds a batch whose gateways were ended before they came to a result
LOOK_S = 0.05


class FollowedBatch:
    """`bodies` are the requests of its lines to `endpoint`, by their custom_ids.

    Its methods raise httpx.HTTPError when the gateway ends meanwhile, and AssertionError for a promise not kept.
    """

    def __init__(self, name: str, endpoint: str, bodies: dict[str, Json], window: str = "24h") -> None:
        self.name = name
        self.bodies = bodies
        self.shown: Json = {}  # the batch as it was last
        self.heard: dict[str, str] = {}  # lines of its files as they were read while it ran, by custom_id
        self.endpoint = endpoint
        self._window = window
        self._read = dict.fromkeys(PLACES, 0)  # lines of each file

    def submit(self, service: Service) -> None:
        """Once: whoever does not know whether it was created looks for it."""
        self.shown = self.shown or self._find(service) or self._create(service)

    def look(self, service: Service) -> Json:
        """The batch as it is, and what has come to its files since the last look. It is resumed when it is held."""
        self.shown = as_object(service.client.get(f"{BATCHES}/{self.shown['id']}").raise_for_status().text)
        for place in PLACES:
            if file := self.shown[place]:
                for line in self._lines(service, file, self._read[place]):
                    self._read[place] += 1
                    self._hear(line)
        if self.shown["status"] == "in_progress" and self.shown["errors"]:
            self._resume(service)
        return self.shown

    def follow(self, service: Service, deadline_s: float = DEADLINE_S) -> Json:
        """To its end."""
        deadline = time.monotonic() + deadline_s
        while self.look(service)["status"] not in ENDED:
            assert time.monotonic() < deadline, f"it does not end: {self.shown}"
            time.sleep(LOOK_S)
        return self.shown

    def cancel(self, service: Service) -> Json:
        """It may have ended before."""
        return as_object(service.client.post(f"{BATCHES}/{self.shown['id']}/cancel").raise_for_status().text)

    def check(self, service: Service) -> tuple[dict[str, Json], dict[str, Json]]:
        """The lines of the output and of the error file when it has ended: one for each custom_id over both, each as it
        was read before, and counts and usage to match."""
        if self.shown["in_progress_at"] is None:  # it was cancelled before it had any lines
            assert not self.heard and self.shown["status"] == "cancelled", self.shown
            return {}, {}
        outputs, errors = ([*self._lines(service, self.shown[place], 0)] for place in PLACES)
        whole = {custom_id_of(line): line for line in (*outputs, *errors)}
        assert len(whole) == len(outputs) + len(errors), "a custom_id stands in its files twice"
        assert whole.keys() == self.bodies.keys(), f"{len(whole)} lines of {len(self.bodies)}"
        assert whole == self.heard, "a line is not what it was"
        answered, failed = ({custom_id_of(line): as_object(line) for line in lines} for lines in (outputs, errors))
        counted = sum((line["error"] or {}).get("code") not in UNANSWERED for line in failed.values())
        counts = {"total": len(self.bodies), "completed": len(answered), "failed": counted}
        assert self.shown["request_counts"] == counts
        assert {line["response"]["status_code"] for line in answered.values()} <= {200}
        usages = [line["response"]["body"]["usage"] for line in answered.values()]
        used = [sum(usage[tokens] for usage in usages) for tokens in ("prompt_tokens", "completion_tokens")]
        assert [self.shown["usage"][tokens] for tokens in ("input_tokens", "output_tokens")] == used
        return answered, failed

    def delete_files(self, service: Service) -> None:
        """Those that it came with, and those that it made."""
        for place in ("input_file_id", *PLACES):
            if file := self.shown[place]:
                service.client.delete(f"{FILES}/{file}").raise_for_status()

    # -- details

    def _find(self, service: Service) -> Json | None:
        page = service.client.get(BATCHES, params={"limit": 100}).raise_for_status().json()
        return next((found for found in page["data"] if (found["metadata"] or {}).get("name") == self.name), None)

    def _create(self, service: Service) -> Json:
        lines = [
            {"custom_id": custom_id, "method": "POST", "url": self.endpoint, "body": body}
            for custom_id, body in self.bodies.items()
        ]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        asked = {
            "input_file_id": upload(service, content, "in.jsonl", purpose="batch").raise_for_status().json()["id"],
            "endpoint": self.endpoint,
            "completion_window": self._window,
            "metadata": {"name": self.name},
        }
        return as_object(service.client.post(BATCHES, json=asked).raise_for_status().text)

    def _lines(self, service: Service, file: str | None, offset: int) -> list[str]:
        """Those of a file but for the first."""
        if file is None:
            return []
        answer = service.client.get(f"{FILES}/{file}/content", params={"offset": offset})
        if answer.status_code == httpx.codes.NOT_FOUND:  # without a line it goes with the batch's end, which came now
            return []
        return answer.raise_for_status().text.split("\n")[:-1]

    def _hear(self, line: str) -> None:
        custom_id = custom_id_of(line)
        assert custom_id not in self.heard, f"a second line of {custom_id}: {self.heard[custom_id]} and {line}"
        assert custom_id in self.bodies, f"nobody asked for {line}"
        self.heard[custom_id] = line

    def _resume(self, service: Service) -> None:
        """Nothing else may hold it."""
        (problem,) = self.shown["errors"]["data"]
        assert problem["code"] == "batch_held" and RESTARTED in problem["message"], problem
        answer = service.client.post(f"{BATCHES}/{self.shown['id']}/resume")
        assert answer.status_code in (httpx.codes.OK, httpx.codes.CONFLICT), answer.text


def custom_id_of(line: str) -> str:
    """Of a line of an output or error file."""
    return str(as_object(line)["custom_id"])
