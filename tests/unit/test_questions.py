"""Questions to a rank: each has its answer, and one that makes the rank work is not asked twice at a time."""

import asyncio

import pytest

from app.ranks.questions import NoAnswer, Question, Questions
from engines.contract.protocol import Count, Counted, ItemSize, PromptKind, RunItem, Scrape, Scraped


class Asked:
    """What was sent to ranks."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, Question]] = []
        self.questions = Questions(lambda rank, message: self.sent.append((rank, message)))

    def answer(self, text: bytes) -> None:
        """Answers all open scrapes."""
        for _, message in self.sent:
            if isinstance(message, Scrape):
                self.questions.answer(Scraped(incarnation=message.incarnation, scrape=message.scrape, text=text))


def test_those_who_ask_for_metrics_at_once_share_one_answer() -> None:
    async def play() -> None:
        asked = Asked()
        waiting = [asyncio.create_task(asked.questions.scrape(0, 1)) for _ in range(50)]
        other = asyncio.create_task(asked.questions.scrape(1, 1))
        await asyncio.sleep(0.01)
        assert [rank for rank, _ in asked.sent] == [0, 1]
        asked.answer(b"first")
        assert await asyncio.gather(*waiting, other) == [b"first"] * 51
        later = asyncio.create_task(asked.questions.scrape(0, 1))
        await asyncio.sleep(0.01)
        assert len(asked.sent) == 3, "an answer is not kept"
        asked.answer(b"second")
        assert await later == b"second"

    asyncio.run(play())


def test_one_that_goes_away_takes_the_answer_from_nobody() -> None:
    async def play() -> None:
        asked = Asked()
        first, second = (asyncio.create_task(asked.questions.scrape(0, 1)) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        asked.answer(b"text")
        assert await second == b"text"

    asyncio.run(play())


def test_a_lost_rank_answers_nobody() -> None:
    async def play() -> None:
        asked = Asked()
        waiting = [asyncio.create_task(asked.questions.scrape(0, 1)) for _ in range(3)]
        await asyncio.sleep(0.01)
        asked.questions.forget(0)
        for task in waiting:
            with pytest.raises(NoAnswer, match="rank 0 was lost"):
                await task

    asyncio.run(play())


@pytest.mark.parametrize("sizes", [[ItemSize(3, 16)], []], ids=["whole", "short"])
def test_a_size_for_each_item_is_an_answer_and_nothing_else_is(sizes: list[ItemSize]) -> None:
    async def play() -> list[ItemSize]:
        asked = Asked()
        item = RunItem(0, PromptKind.TEXT, b'"Hello"', 0)
        waiting = asyncio.create_task(asked.questions.count(0, 1, [b"\x80"], [item]))
        await asyncio.sleep(0.01)
        ((_, question),) = asked.sent
        assert isinstance(question, Count)
        asked.questions.answer(Counted(incarnation=1, count=question.count, sizes=sizes))
        return await waiting

    if sizes:
        assert asyncio.run(play()) == sizes
    else:
        with pytest.raises(NoAnswer, match="answered something else"):
            asyncio.run(play())
