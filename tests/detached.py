"""What tests do with batches in the background, over HTTP."""

import json

import httpx

from tests.service import BATCH, Json, Service, until

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
