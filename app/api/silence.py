"""When a stream has said nothing for so long that its client, or a proxy before it, may give up."""

import asyncio
from typing import Self

from app.exchanges.news import News


class Silence:
    """Gives news when nothing has been said for so many seconds, if any number is too many.

    One timer lasts for many tokens: none is set for each.
    """

    def __init__(self, seconds: float | None, news: News) -> None:
        self.is_long = False  # since then
        self._news = news
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._seconds = seconds or 0.0
        self._timer = None if seconds is None else self._loop.call_later(seconds, self._look)

    def broken(self) -> None:
        """Something is being said."""
        self._since = self._loop.time()
        self.is_long = False

    def _look(self) -> None:
        left_s = self._since + self._seconds - self._loop.time()
        if left_s <= 0:
            self.is_long = True
            self._news.set()
            left_s = self._seconds
        self._timer = self._loop.call_later(left_s, self._look)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
