"""Requests of OpenAI's API: an answer is whole, or it ends with an error that may be, and nothing of it comes twice."""

import time

import httpx

from tests.chaos.checks import PATIENCE_S, RETRY_S, Broken
from tests.chaos.client import Client, until_accepted
from tests.chaos.plan import POISONS, PlannedExchange, Round
from tests.exchanging import DONE, Events, Leaving, ask, texts_of
from tests.service import Json, Service

NOT_YET = "no_rank_ready"


class ExchangeClient(Client):
    """One request."""

    def __init__(self, planned: PlannedExchange) -> None:
        super().__init__()
        self.planned = planned
        self._is_accepted = False
        self._events: list[Json | str] = []  # of a stream
        self._answer: Json | None = None  # to what does not stream
        self._error: str | None = None  # the code that it has ended with
        self._is_whole = False

    def begin(self, service: Service, played: Round) -> None:
        """Sends it until it is accepted, and reads the answer or goes away."""
        time.sleep(self.planned.delay_s)
        if self.planned.hang_up_s is not None:
            self._leave(service, played)
            return
        until_accepted(lambda: self._ask(service, played), "an exchange")

    def compare(self, service: Service, played: Round) -> None:
        """Texts are those of a rank to which nothing happens, as far as they have come. What was found to crash its
        engine is refused."""
        if self._error is not None and self._is_convicted_surely(played):
            self._check_refusal(service)
        has_come = self._answer is not None or self._events
        if has_come and not any(word in prompt for prompt in self.planned.prompts for word in POISONS):
            self._check_texts(undisturbed(service, self.planned))

    # -- asking

    def _leave(self, service: Service, played: Round) -> None:
        try:
            client = Leaving(service, self.planned.path, **self.planned.body)
        except OSError:
            if not played.ends_gateway:
                raise
            return
        time.sleep(self.planned.hang_up_s or 0)
        client.leave()
        self.counts["clients gone"] += 1

    def _ask(self, service: Service, played: Round) -> bool:
        """Whether it was accepted, or nobody will any more."""
        try:
            with service.client.stream(
                "POST", self.planned.path, json=self.planned.body, headers={"Connection": "close"}
            ) as answer:
                return self._read(answer, played)
        except httpx.HTTPError as error:
            if self._is_accepted and not played.kills_gateway:
                raise Broken("an exchange was accepted and cut off, and nobody had killed the gateway") from error
            if not played.ends_gateway:
                raise
            self.counts["cut off with the gateway"] += 1
            return True

    def _read(self, answer: httpx.Response, played: Round) -> bool:
        if answer.is_error:
            error = _json(answer)["error"]
            if error["code"] == NOT_YET:
                return False
            self._fail(error, played)
            return True
        self._is_accepted = True
        if self.planned.streams:
            for event in Events(answer):
                if self._error is not None or self._is_whole:
                    raise Broken(f"a stream goes on after its end: {event}")
                self._hear(event, played)
        else:
            self._answer = _json(answer)
            self._is_whole = True
        if self._error is None and not self._is_whole:
            raise Broken("a stream has no end")
        if self._is_whole and self.planned.is_poisoned:
            raise Broken(f"a poisoned exchange was answered: {self.planned}")
        self.counts["exchanges that were whole"] += self._is_whole
        return True

    def _hear(self, event: Json | str, played: Round) -> None:
        if event == DONE:
            self._is_whole = True
        elif isinstance(event, dict) and "error" in event:
            self._fail(event["error"], played)
        else:
            self._events.append(event)

    def _fail(self, error: Json, played: Round) -> None:
        code = self._error = str(error["code"])
        self.counts[f"exchanges with {code}{' in the midst' if self._events else ''}"] += 1
        if code == "poisoned" and not self.planned.is_poisoned and played.may_convict_wrongly:
            self.counts["convicted by a blow"] += 1
        elif not (
            (code == "poisoned" and self.planned.is_poisoned)
            or (code == "shutting_down" and played.ends_gateway)
            or (code == "rank_lost" and self._events and played.may_lose_ranks)
        ):
            raise Broken(f"{code} for an exchange that should be whole, after {len(self._events)} events: {error}")

    # -- afterwards

    def _is_convicted_surely(self, played: Round) -> bool:
        """Of a list, the first part that fails ends the others, whether they were found out or not."""
        is_alone = len(self.planned.prompts) == 1
        return self.planned.is_poisoned and is_alone and played.convicts_surely

    def _check_refusal(self, service: Service) -> None:
        """At once, however the answer is to come, and at the cost of no rank."""
        restarts = [rank["restarts"] for rank in service.ranks()]
        for body in (self.planned.body, unstreamed(self.planned)):
            again = ask(service, self.planned.path, **body)
            if again.status_code != httpx.codes.BAD_REQUEST or again.json()["error"]["code"] != "poisoned":
                raise Broken(f"{self._error}, and then {again.status_code} {again.text} for what crashes its engine")
        if [rank["restarts"] for rank in service.ranks()] != restarts:
            raise Broken("a rank was lost with what is known to crash it")
        self.counts["exchanges convicted"] += 1

    def _check_texts(self, whole: Json) -> None:
        answer = self._answer or whole
        if (answer["choices"], answer["usage"]) != (whole["choices"], whole["usage"]):
            raise Broken(f"an answer is not what an undisturbed rank says: {answer} and {whole}")
        texts = {choice["index"]: _text_of(choice) for choice in whole["choices"]}
        told = texts_of(self._events)
        if any(not texts[index].startswith(text) for index, text in told.items()):
            raise Broken(f"a stream is not what an undisturbed rank says: {told} and {texts}")
        if self.planned.streams and self._is_whole and (told != texts or self._usages() != [whole["usage"]]):
            raise Broken(f"a stream that has ended is not whole: {told} and {texts}, {self._usages()}")

    def _usages(self) -> list[Json]:
        return [event["usage"] for event in self._events if isinstance(event, dict) and not event["choices"]]


def unstreamed(planned: PlannedExchange) -> Json:
    """The same request for a whole answer."""
    return {name: value for name, value in planned.body.items() if not name.startswith("stream")}


def undisturbed(service: Service, planned: PlannedExchange) -> Json:
    """The whole answer to what may be asked as a stream. A rank whose end was noticed only now is waited for."""
    body = unstreamed(planned) | {"user": "undisturbed"}  # another request: the planned one may have been convicted
    deadline = time.monotonic() + PATIENCE_S
    while (answer := ask(service, planned.path, **body)).is_error:
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
            raise Broken(f"{answer.status_code} for an exchange: {answer.text}")
        time.sleep(RETRY_S)
    whole: Json = answer.json()
    return whole


def _json(answer: httpx.Response) -> Json:
    answer.read()
    found: Json = answer.json()
    return found


def _text_of(choice: Json) -> str:
    return str(choice["message"]["content"] if "message" in choice else choice["text"])
