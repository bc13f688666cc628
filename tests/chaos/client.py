"""Whoever asks something of a service in a round, and knows what may come of it."""

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable

from tests.chaos.checks import PATIENCE_S, RETRY_S, Broken
from tests.chaos.plan import Round
from tests.service import Service


class Client(ABC):
    """`counts` says what has happened. Its methods raise AssertionError for a promise not kept."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    @abstractmethod
    def begin(self, service: Service, played: Round) -> None:
        """To the answer, or to the gateway's end."""

    def finish(self, service: Service, played: Round) -> None:  # noqa: B027  most have nothing to do
        """What outlives its gateway goes on, to its end."""

    def answered(self) -> set[str]:
        """What has its result, durably, as ranks have it in their record: it must not run again."""
        return set()

    def compare(self, service: Service, played: Round) -> None:  # noqa: B027  some have nothing to compare
        """When all is well again: what was read is what a rank says to which nothing happens."""


def until_accepted(ask: Callable[[], bool], what: str) -> None:
    """Asks again and again, until that was accepted. Raises Broken."""
    deadline = time.monotonic() + PATIENCE_S
    while not ask():
        if time.monotonic() > deadline:
            raise Broken(f"{what} was never accepted")
        time.sleep(RETRY_S)
