"""Batches whose clients wait for the answer, or go away."""

import http.client
import time
from typing import Any

import httpx

from tests.chaos.checks import PATIENCE_S, RETRY_S, Broken, check_answer
from tests.chaos.client import Client, until_accepted
from tests.chaos.plan import PlannedBatch, Round
from tests.service import Json, Service


def attached(service: Service, prompts: list[Any], params: dict[str, Any] | None = None) -> list[Json]:
    """The results of an attached batch. A rank whose end was noticed only now, or that a batch in the background has
    just ended, is waited for."""
    deadline = time.monotonic() + PATIENCE_S
    while (answer := service.post(prompts, sampling_params=params or {})).is_error:
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
            raise Broken(f"{answer.status_code} for an attached batch: {answer.text}")
        time.sleep(RETRY_S)
    results: list[Json] = answer.json()["results"]
    return results


class Attached(Client):
    """One such batch."""

    def __init__(self, planned: PlannedBatch) -> None:
        super().__init__()
        self.planned = planned

    def begin(self, service: Service, played: Round) -> None:
        """Sends it until it is accepted, and reads the answer or goes away."""
        time.sleep(self.planned.delay_s)
        until_accepted(lambda: self._ask(service, played), "a batch")

    def _ask(self, service: Service, played: Round) -> bool:
        """Whether it was accepted, or nobody will any more."""
        batch = self.planned
        fields: dict[str, Any] = {"sampling_params": {"max_tokens": batch.max_tokens}, "priority": batch.priority}
        if batch.timeout_s is not None:
            fields["timeout_s"] = batch.timeout_s
        pending = None
        try:
            with service.begin(batch.prompts, **fields) as pending:
                if batch.hang_up_s is not None:
                    time.sleep(batch.hang_up_s)
                    self.counts["clients gone"] += 1
                    return True
                status, answer = pending.outcome()
        except (OSError, http.client.HTTPException) as error:
            if pending is not None and pending.is_accepted and not played.kills_gateway:
                raise Broken("a batch was accepted and not answered, and nobody had killed the gateway") from error
            if not played.ends_gateway:
                raise
            self.counts["cut off with the gateway"] += 1
            return True
        if status == httpx.codes.SERVICE_UNAVAILABLE:
            return False
        if status != httpx.codes.OK:
            raise Broken(f"{status} for a batch: {answer}")
        self.counts["items"] += len(batch.prompts)
        self.counts["convicted by a blow"] += check_answer(batch, answer, played)
        self.counts["poisoned"] += len(batch.poisoned)
        return True
