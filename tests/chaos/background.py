"""A batch in the background and its reader, over as many gateways as it takes to end."""

import time
from typing import Any

import httpx

from tests.chaos.attached import attached
from tests.chaos.checks import PATIENCE_S, RETRY_S, Broken, check_answer
from tests.chaos.client import Client
from tests.chaos.plan import PlannedBatch, Round
from tests.detached import SUMMARY, ResultReader
from tests.service import BATCH, Json, Service, as_object


class Background(Client):
    """One such batch. `key` is its Idempotency-Key."""

    def __init__(self, planned: PlannedBatch, key: str) -> None:
        super().__init__()
        self.planned = planned
        self._key = key
        self._reader = ResultReader()
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
            shown = service.client.post(f"{BATCH}/{self._reader.id}/cancel").raise_for_status().json()
            self._was_cancelled = shown["status"] in ("cancelling", "cancelled")
        self._read(service)

    def finish(self, service: Service, played: Round) -> None:
        """Where a former gateway ended."""
        self._submit(service)
        summary = self._read(service)
        if self._was_cancelled and summary["status"] != "cancelled":
            raise Broken(f"a batch was cancelled, and is {summary['status']}")
        results = self._reader.made_up | self._reader.heard
        answer = {"results": [results[index] for index in sorted(results)]}
        self.counts["convicted by a blow"] += check_answer(self.planned, answer, played)
        self.counts["items in the background"] += len(self.planned.prompts)

    def answered(self) -> set[str]:
        """Prompts."""
        return {self.planned.prompts[index] for index in self._reader.heard}

    def compare(self, service: Service, played: Round) -> None:
        """What is stored is what was read, and what a rank says to which nothing happens. The batch is deleted then."""
        heard = self._reader.heard
        lines = service.client.get(f"{BATCH}/{self._reader.id}/results").raise_for_status().text.splitlines()
        stored = [as_object(line) for line in lines]
        if [line for line in stored if line.get("index") in heard] != list(heard.values()):
            raise Broken("a result that was read is not stored so")
        ok = [result for result in heard.values() if result["status"] == "ok"]
        if ok:
            prompts = [self.planned.prompts[result["index"]] for result in ok]
            undisturbed = attached(service, prompts, self._params)
            if [result["outputs"] for result in undisturbed] != [result["outputs"] for result in ok]:
                raise Broken("a result is not what an undisturbed rank says")
        service.client.delete(f"{BATCH}/{self._reader.id}").raise_for_status()

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
        self._reader.accepted(answer.json())

    def _read(self, service: Service) -> Json:
        """To the summary."""
        deadline = time.monotonic() + PATIENCE_S
        while (last := self._reader.follow(service))["object"] != SUMMARY:
            if time.monotonic() > deadline:
                raise Broken(f"a batch in the background does not end: {last}")
            time.sleep(RETRY_S)
        return last
