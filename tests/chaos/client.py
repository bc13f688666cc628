"""Whoever asks something of a service in a round, and knows what may come of it."""

from collections import Counter

from tests.chaos.plan import Round
from tests.service import Service


class Client:
    """`counts` says what has happened. Its methods raise AssertionError for a promise not kept."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def begin(self, service: Service, played: Round) -> None:
        """To the answer, or to the gateway's end."""
        raise NotImplementedError

    def finish(self, service: Service, played: Round) -> None:
        """What outlives its gateway goes on, to its end."""

    def answered(self) -> set[str]:
        """What has its result, durably, as ranks have it in their record: it must not run again."""
        return set()

    def compare(self, service: Service, played: Round) -> None:
        """When all is well again: what was read is what a rank says to which nothing happens."""
