"""Questions to a rank that have an answer: whether parameters are valid, how large items are, and its metrics."""

import asyncio
import itertools
from collections.abc import Callable
from typing import TypeAlias

from engines import tasks
from engines.contract.item_errors import ItemError
from engines.contract.protocol import Check, Checked, Count, Counted, ItemSize, Message, RunItem, Scrape, Scraped

CHECK_TIMEOUT_S = 30.0  # a structure may have to be compiled, behind others
COUNT_TIMEOUT_S = 120.0  # of some hundred items, each of which may have a structure of its own
SCRAPE_TIMEOUT_S = 3.0  # Prometheus waits 10 s for the whole of it, a rank that stands still included
Question: TypeAlias = Check | Count | Scrape
Answer: TypeAlias = Checked | Counted | Scraped


class NoAnswer(Exception):
    """The rank was lost, or did not answer in time."""


class Questions:
    """Matches answers to questions."""

    def __init__(self, send: Callable[[int, Question], None]) -> None:
        self._send = send
        self._numbers = itertools.count(1)
        self._open: dict[int, tuple[int, asyncio.Future[Message]]] = {}  # question -> rank, answer
        self._scrapes: dict[tuple[int, int], asyncio.Task[bytes]] = {}  # under way, by rank and incarnation

    async def check(self, rank: int, incarnation: int, params: bytes) -> ItemError | None:
        """What the rank's engine says of sampling parameters. Raises NoAnswer."""
        number = next(self._numbers)
        question = Check(incarnation=incarnation, check=number, params=params)
        answer = await self._ask(rank, number, question, CHECK_TIMEOUT_S)
        if not isinstance(answer, Checked):
            raise NoAnswer(f"rank {rank} answered something else")
        return answer.error

    async def count(self, rank: int, incarnation: int, params: list[bytes], items: list[RunItem]) -> list[ItemSize]:
        """How large the items are for the rank's engine, in their order. Raises NoAnswer."""
        number = next(self._numbers)
        question = Count(incarnation=incarnation, count=number, params=params, items=items)
        answer = await self._ask(rank, number, question, COUNT_TIMEOUT_S)
        if not isinstance(answer, Counted) or len(answer.sizes) != len(items):
            raise NoAnswer(f"rank {rank} answered something else")
        return answer.sizes

    async def scrape(self, rank: int, incarnation: int) -> bytes:
        """The engine's metrics in Prometheus' text format. Raises NoAnswer.

        Who asks while an answer is on its way shares it: making one holds the rank's loop.
        """
        key = (rank, incarnation)
        if key not in self._scrapes:
            self._scrapes[key] = tasks.awaited(self._scrape(rank, incarnation), f"scrape rank {rank}")
            self._scrapes[key].add_done_callback(lambda task: self._forget_scrape(key, task))
        return await asyncio.shield(self._scrapes[key])

    async def _scrape(self, rank: int, incarnation: int) -> bytes:
        number = next(self._numbers)
        answer = await self._ask(rank, number, Scrape(incarnation=incarnation, scrape=number), SCRAPE_TIMEOUT_S)
        if not isinstance(answer, Scraped):
            raise NoAnswer(f"rank {rank} answered something else")
        return answer.text

    def _forget_scrape(self, key: tuple[int, int], task: asyncio.Task[bytes]) -> None:
        del self._scrapes[key]
        if not task.cancelled():
            task.exception()  # those who asked may all have gone

    def answer(self, message: Answer) -> None:
        """An answer has come; one that nobody waits for any more is dropped."""
        _, waiting = self._open.get(_number(message), (None, None))
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    def forget(self, rank: int) -> None:
        """The rank is lost: its questions get no answer."""
        for asked, waiting in self._open.values():
            if asked == rank and not waiting.done():
                waiting.set_exception(NoAnswer(f"rank {rank} was lost"))

    async def _ask(self, rank: int, number: int, question: Question, timeout_s: float) -> Message:
        waiting: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._open[number] = (rank, waiting)
        try:
            self._send(rank, question)
            return await asyncio.wait_for(waiting, timeout_s)
        except TimeoutError:
            raise NoAnswer(f"rank {rank} did not answer within {timeout_s:g} s") from None
        finally:
            del self._open[number]


def _number(answer: Answer) -> int:
    """Of the question that it belongs to."""
    match answer:
        case Checked(check=number) | Counted(count=number) | Scraped(scrape=number):
            return number
