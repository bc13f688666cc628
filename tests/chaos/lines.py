"""A batch of OpenAI's API and its client, over as many gateways as it takes to end."""

import json
import time
from itertools import islice

import httpx

from tests.chaos.checks import PATIENCE_S, Broken, check_answer
from tests.chaos.client import Client
from tests.chaos.exchanges import undisturbed
from tests.chaos.plan import PlannedBatch, PlannedExchange, Round, body_of
from tests.openai_batches import UNANSWERED, FollowedBatch
from tests.service import Json, Service

COMPARED = 5  # lines with what an undisturbed rank says
STATUSES = {"batch_expired": "timeout", "batch_cancelled": "cancelled"}


class LineBatch(Client):
    """One such batch. A line's custom_id is its place in the file."""

    def __init__(self, planned: PlannedBatch, endpoint: str, name: str) -> None:
        super().__init__()
        self.planned = planned
        bodies = {
            str(index): body_of(endpoint, prompt, planned.max_tokens) for index, prompt in enumerate(planned.prompts)
        }
        window = "24h" if planned.timeout_s is None else f"{planned.timeout_s:.3f}s"
        self._batch = FollowedBatch(name, endpoint, bodies, window)
        self._answered: dict[str, Json] = {}

    def begin(self, service: Service, played: Round) -> None:
        """Once it is planned: creates it, cancels it or not, and reads its files to its end."""
        time.sleep(self.planned.delay_s)
        try:
            self._batch.submit(service)
            if self.planned.hang_up_s is not None:
                time.sleep(self.planned.hang_up_s)
                self._batch.cancel(service)
            self._batch.follow(service, PATIENCE_S)
        except httpx.HTTPError as error:
            if not played.ends_gateway:
                raise Broken("a gateway that nobody had ended gave up a batch of OpenAI's API") from error

    def finish(self, service: Service, played: Round) -> None:
        """Where a former gateway ended."""
        self._batch.submit(service)
        if (status := self._batch.follow(service, PATIENCE_S)["status"]) not in self._ends:
            raise Broken(f"a batch of OpenAI's API is {status}: {self._batch.shown}")
        self._answered, failed = self._batch.check(service)
        self.counts["lines"] += len(self._answered) + len(failed)
        if self._answered or failed:
            results = [self._result(index, failed.get(str(index))) for index in range(len(self.planned.prompts))]
            self.counts["convicted by a blow"] += check_answer(self.planned, {"results": results}, played)

    def answered(self) -> set[str]:
        """The bodies of its lines, as they were sent."""
        return {json.dumps(self._batch.bodies[custom_id]) for custom_id in self._batch.heard}

    def compare(self, service: Service, played: Round) -> None:
        """Some of them. Its files are deleted then."""
        for custom_id, line in islice(self._answered.items(), COMPARED):
            prompts = [self.planned.prompts[int(custom_id)]]
            asked = PlannedExchange(self._batch.endpoint, prompts, self.planned.max_tokens, delay_s=0)
            whole = undisturbed(service, asked)
            if line["response"]["body"]["choices"] != whole["choices"]:
                raise Broken(f"a line is not what an undisturbed rank says: {line} and {whole}")
        self._batch.delete_files(service)

    @property
    def _ends(self) -> set[str]:
        """In which of them it may end."""
        planned = self.planned
        ends = {"completed": True, "expired": planned.timeout_s is not None, "cancelled": planned.hang_up_s is not None}
        return {status for status, may_be in ends.items() if may_be}

    @staticmethod
    def _result(index: int, failed: Json | None) -> Json:
        """As a batch of our own API would have it."""
        if failed is None:
            return {"index": index, "status": "ok"}
        error = failed["error"] or failed["response"]["body"]["error"]
        status = STATUSES[error["code"]] if error["code"] in UNANSWERED else "error"
        return {"index": index, "status": status, "error": error}
