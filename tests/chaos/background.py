"""A batch in the background and its reader, over as many gateways as it takes to end."""

import time
from typing import Any

import httpx

from tests.chaos.attached import attached
from tests.chaos.checks import PATIENCE_S, RETRY_S, Broken, check_answer
from tests.chaos.client import Client
from tests.chaos.plan import PlannedBatch, Round
from tests.service import BATCH, Json, Service, as_object

RESULT, PROGRESS, SUMMARY = (f"batch_generation.{what}" for what in ("result", "progress", "summary"))


class Background(Client):
    """One such batch. `key` is its Idempotency-Key."""

    def __init__(self, planned: PlannedBatch, key: str) -> None:
        super().__init__()
        self.planned = planned
        self._key = key
        self._id: str | None = None
        self._heard: dict[int, Json] = {}  # durable results
        self._made_up: dict[int, Json] = {}  # of items that have none when the batch has ended
        self._last_seq = 0
        self._was_cancelled = False

    def begin(self, service: Service, played: Round) -> None:
        """Once it is planned: submits it, cancels it or not, and reads to its end."""
        time.sleep(self.planned.delay_s)
        try:
            self._go_through(service)
        except httpx.HTTPError as error:
            if not played.ends_gateway:
                raise Broken("a gateway that nobody had ended gave up a reader") from error

    def _go_through(self, service: Service) -> None:
        self._submit(service)
        if self.planned.hang_up_s is not None:
            time.sleep(self.planned.hang_up_s)
            shown = service.client.post(f"{BATCH}/{self._id}/cancel").raise_for_status().json()
            self._was_cancelled = shown["status"] in ("cancelling", "cancelled")
        self._read(service)

    def finish(self, service: Service, played: Round) -> None:
        """Where a former gateway ended."""
        self._submit(service)
        summary = self._read(service)
        if self._was_cancelled and summary["status"] != "cancelled":
            raise Broken(f"a batch was cancelled, and is {summary['status']}")
        results = self._made_up | self._heard
        answer = {"results": [results[index] for index in sorted(results)]}
        self.counts["convicted by a blow"] += check_answer(self.planned, answer, played)
        self.counts["items in the background"] += len(self.planned.prompts)

    def answered(self) -> set[str]:
        """Prompts."""
        return {self.planned.prompts[index] for index in self._heard}

    def compare(self, service: Service, played: Round) -> None:
        """What is stored is what was read, and what a rank says to which nothing happens. The batch is deleted then."""
        lines = service.client.get(f"{BATCH}/{self._id}/results").raise_for_status().text.splitlines()
        stored = [as_object(line) for line in lines]
        if [line for line in stored if line.get("index") in self._heard] != list(self._heard.values()):
            raise Broken("a result that was read is not stored so")
        ok = [result for result in self._heard.values() if result["status"] == "ok"]
        if ok:
            prompts = [self.planned.prompts[result["index"]] for result in ok]
            undisturbed = attached(service, prompts, self._params)
            if [result["outputs"] for result in undisturbed] != [result["outputs"] for result in ok]:
                raise Broken("a result is not what an undisturbed rank says")
        service.client.delete(f"{BATCH}/{self._id}").raise_for_status()

    @property
    def _params(self) -> dict[str, Any]:
        return {"max_tokens": self.planned.max_tokens}

    def _submit(self, service: Service) -> None:
        """Until it is accepted; whoever does not know whether it was sends it again with the same key."""
        planned = self.planned
        body: dict[str, Any] = {"prompts": planned.prompts, "sampling_params": self._params, "background": True}
        body |= {"priority": planned.priority}
        if planned.timeout_s is not None:
            body["timeout_s"] = planned.timeout_s
        deadline = time.monotonic() + PATIENCE_S
        while (answer := service.client.post(BATCH, json=body, headers={"Idempotency-Key": self._key})).is_error:
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                raise Broken(f"{answer.status_code} for a batch in the background: {answer.text}")
            time.sleep(RETRY_S)
        accepted = answer.json()
        if self._id not in (None, accepted["id"]):
            raise Broken(f"{self._key} is {accepted['id']} now; it was {self._id}")
        self._id = accepted["id"]

    def _read(self, service: Service) -> Json:
        """To the summary."""
        deadline = time.monotonic() + PATIENCE_S
        while (last := self._follow(service))["object"] != SUMMARY:
            if time.monotonic() > deadline:
                raise Broken(f"a batch in the background does not end: {last}")
            time.sleep(RETRY_S)
        return last

    def _follow(self, service: Service) -> Json:
        params = {"follow": "1", "after": str(self._last_seq)}
        last: Json = {}
        with service.client.stream("GET", f"{BATCH}/{self._id}/results", params=params) as answer:
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
            if index in self._heard:
                raise Broken(f"a second result of {index}: {self._heard[index]} and {result}")
            self._heard[index] = result
            self._last_seq = seq
        elif result["status"] in ("cancelled", "timeout") and index not in self._heard:
            self._made_up[index] = result
        else:
            raise Broken(f"a result came again: {result}")

    def _release(self, service: Service) -> None:
        """Gateways were ended before they came to a result; nothing else may hold it."""
        shown = service.client.get(f"{BATCH}/{self._id}").raise_for_status().json()
        if shown["status"] == "held" and "was restarted" not in shown["reason"]:
            raise Broken(f"a batch is held: {shown['reason']}")
        service.client.post(f"{BATCH}/{self._id}/resume")
