"""What tests do with batches in the background, over HTTP."""

import json

import httpx

from tests.service import BATCH, Json, Service, as_object, until

RESULT, PROGRESS, SUMMARY = (f"batch_generation.{what}" for what in ("result", "progress", "summary"))
SHORT = {"max_tokens": 4, "ignore_eos": True}
LONG = {"max_tokens": 300, "ignore_eos": True}  # a second and a half
ENDLESS = {"max_tokens": 8000, "ignore_eos": True}


def submit(service: Service, prompts: object, **fields: object) -> Json:
    answer = service.post(prompts, background=True, **fields)
    assert answer.status_code == 202, answer.text
    found: Json = answer.json()
    assert answer.headers["Location"] == f"{BATCH}/{found['id']}"
    return found


def look(service: Service, batch: Json) -> Json:
    found: Json = service.client.get(f"{BATCH}/{batch['id']}").json()
    return found


def ended(service: Service, batch: Json) -> Json:
    def look_again() -> Json | None:
        found = look(service, batch)
        return found if found["ended_at"] else None

    return until(look_again, "it does not end") or {}


def read(service: Service, batch: Json, **asked: object) -> list[Json]:
    answer = service.client.get(f"{BATCH}/{batch['id']}/results", params=asked)  # type: ignore[arg-type]
    assert answer.status_code == 200 and answer.headers["Content-Type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def act(service: Service, batch: Json, what: str, **fields: object) -> httpx.Response:
    return service.client.post(f"{BATCH}/{batch['id']}/{what}", json=fields or None)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def dispatched(service: Service, batch: Json) -> list[int]:
    return [fact["index"] for fact in service.facts("item_dispatched", batch=batch["id"])]


def cancel(service: Service, batch: Json) -> Json:
    assert act(service, batch, "cancel").json()["status"] in ("cancelling", "cancelled")
    return ended(service, batch)


def with_key(service: Service, key: str, prompts: object, **fields: object) -> httpx.Response:
    return service.client.post(BATCH, json={"prompts": prompts, **fields}, headers={"Idempotency-Key": key})


class ResultReader:
    """Reads a batch in the background over as many gateways as it takes, on from where the last one ended.

    Its methods raise httpx.HTTPError when the gateway ends meanwhile, and AssertionError for a promise not kept.
    """

    def __init__(self) -> None:
        self.id: str | None = None
        self.heard: dict[int, Json] = {}  # durable results, by index
        self.made_up: dict[int, Json] = {}  # of items that have none when the batch has ended
        self._last_seq = 0

    def accepted(self, batch: Json) -> None:
        """The batch that was submitted, or its key stands for: the same one, however often."""
        assert self.id in (None, batch["id"]), f"the same key stood for {self.id}, and stands for {batch['id']}"
        self.id = batch["id"]

    def follow(self, service: Service) -> Json:
        """What comes until the answer ends: the last line, which is the summary if the batch has ended."""
        last: Json = {}
        params = {"follow": "1", "after": str(self._last_seq)}
        with service.client.stream("GET", f"{BATCH}/{self.id}/results", params=params) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                last = as_object(line)
                if last["object"] == RESULT:
                    self._hear(last)
                elif last["object"] == PROGRESS and last["status"] == "held":
                    self._release(service)
        if not last:
            raise httpx.RemoteProtocolError("an answer without a line")
        return last

    def _hear(self, result: Json) -> None:
        index, seq = result["index"], result["seq"]
        if seq > self._last_seq:
            assert index not in self.heard, f"a second result of {index}: {self.heard[index]} and {result}"
            self.heard[index] = result
            self._last_seq = seq
        else:
            is_made_up = result["status"] in ("cancelled", "timeout") and index not in self.heard
            assert is_made_up, f"a result came again: {result}"
            self.made_up[index] = result

    def _release(self, service: Service) -> None:
        """Gateways were ended before they came to a result; nothing else may hold it."""
        shown = as_object(service.client.get(f"{BATCH}/{self.id}").raise_for_status().text)
        assert shown["status"] != "held" or "was restarted" in shown["reason"], f"a batch is held: {shown['reason']}"
        service.client.post(f"{BATCH}/{self.id}/resume")
