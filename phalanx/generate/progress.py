"""How far a job is, for a person: a bar in a terminal of any width, and without one a plain line now and then.

All goes to stderr: the output may be standard output.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from threading import Event, Thread
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from phalanx.client import PhalanxError
from phalanx.client import Progress as BatchProgress
from phalanx.generate.progress_line import Figures, bar_lines, pieces
from phalanx.generate.service import SentResults
from phalanx.generate.spool import Totals

PLAIN_EVERY_S = 10.0
RATE_OVER_S = 30.0
SAMPLE_EVERY_S = 0.5
HELD = "held"
STANDING = ("queued", HELD)
PLAIN_WIDTH = 100_000  # a line that nothing breaks


class Reporter(Protocol):
    """Who is told how far a job is."""

    def say(self, sentence: str) -> None:
        """Something that stays on the screen."""

    def set_phase(self, phase: str) -> None:
        """What is done now."""

    def count(self, phase: str, rows: Callable[[], int]) -> None:
        """What is done now, and with how many rows it was done."""

    def follow(self, results: SentResults, rows: int, bad_rows: int, known: int) -> None:
        """From here on the bar shows how many results have come. The first `known` were there before: rates are of the
        others."""


class Progress:
    """Shows what is in the spool's totals, until its `with` block ends."""

    def __init__(self, totals: Totals, console: Console | None = None) -> None:
        self._phase: str | None = "reading the input"
        self._counted: Callable[[], int] | None = None
        self._totals = totals
        self._console = console or Console(stderr=True)
        self._live: Live | None = None
        self._ended = Event()
        self._results: SentResults | None = None
        self._rows = self._bad_rows = 0
        self._known_until = 0  # results; those beyond are new
        self._began: tuple[float, int] | None = None  # when the first new one was waited for, and the tokens by then
        self._trouble, self._trouble_until = "", 0.0
        self._said: BatchProgress | None = None  # by the service, the last time that it did
        self._said_at, self._said_results = 0.0, 0
        self._samples: deque[tuple[float, int, int]] = deque()  # time, results, tokens

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4, transient=True)
            self._live.start()
        else:
            Thread(target=self._print_now_and_then, name="progress", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Takes the bar away. May be called twice."""
        self._ended.set()
        if self._live is not None:
            self._live.stop()

    def say(self, sentence: str) -> None:
        """A line that stays."""
        width = None if self._console.is_terminal else PLAIN_WIDTH
        self._console.print(Text(f"phalanx: {sentence}"), highlight=False, soft_wrap=True, width=width)

    def set_phase(self, phase: str) -> None:
        """Shows a sentence in place of the bar."""
        self._phase, self._counted = phase, None

    def count(self, phase: str, rows: Callable[[], int]) -> None:
        """The same, with a number of rows."""
        self._phase, self._counted = phase, rows

    def follow(self, results: SentResults, rows: int, bad_rows: int, known: int) -> None:
        """Shows the bar."""
        self._results, self._rows, self._bad_rows = results, rows, bad_rows
        self._known_until = self._totals.results + known
        self._samples.clear()
        self._phase = self._counted = None
        self._sample()

    def wait(self, error: PhalanxError, seconds: float) -> None:
        """Shows for so long why nothing happens."""
        self._trouble_until = time.monotonic() + seconds + SAMPLE_EVERY_S
        self._trouble = str(error)

    @property
    def mean_tokens_per_s(self) -> float | None:
        """Of new results, since they began to come."""
        if self._began is None:
            return None
        began, tokens = self._began
        return (self._totals.completion_tokens - tokens) / (time.monotonic() - began)

    def _render(self) -> Text:
        self._sample()
        if self._phase is not None:
            text = Text(self._phase_text())
            text.truncate(self._console.width, overflow="ellipsis")
        else:
            lines = bar_lines(self._figures(), self._console.width, self._console.options.ascii_only)
            text = Text("\n".join(lines))
        if why := self._why_it_waits():
            text.append(f"\n{why}")  # as many lines as it needs
        return text

    def _print_now_and_then(self) -> None:
        said_at = time.monotonic()
        while not self._ended.wait(min(SAMPLE_EVERY_S, PLAIN_EVERY_S)):
            self._sample()
            if time.monotonic() - said_at >= PLAIN_EVERY_S:
                said_at = time.monotonic()
                said = self._phase_text() if self._phase is not None else ", ".join(pieces(self._figures()))
                self.say(": ".join(filter(None, (said, self._why_it_waits()))))

    def _phase_text(self) -> str:
        return f"{self._phase}" + (f": {self._counted():,} rows" if self._counted else "")

    def _why_it_waits(self) -> str | None:
        if time.monotonic() < self._trouble_until:
            return f"trying again: {self._trouble}"
        said = self._last_said()
        return said.reason if said is not None and self._standing(said) == HELD else None

    def _sample(self) -> None:
        if self._results is None or self._totals.results < self._known_until:
            return
        now, samples = time.monotonic(), self._samples
        if self._standing(self._last_said()) == HELD:  # says nothing about speed
            samples.clear()
        self._began = self._began or (now, self._totals.completion_tokens)
        if not samples or now - samples[-1][0] >= SAMPLE_EVERY_S:
            samples.append((now, self._totals.results, self._totals.completion_tokens))
        while now - samples[0][0] > RATE_OVER_S:
            samples.popleft()

    def _predicted_s_left(self, said: BatchProgress | None) -> float | None:
        """By the service's prediction, which comes when there is nothing else to say, and so may be old."""
        age_s = time.monotonic() - self._said_at
        if said is None or said.predicted_s_left is None or age_s > RATE_OVER_S:
            return None
        return max(said.predicted_s_left - age_s, 0.0)

    def _standing(self, said: BatchProgress | None) -> str | None:
        """Why nothing comes, in a word. A result that came since is news of its own."""
        if said is None or said.status not in STANDING or self._totals.results != self._said_results:
            return None
        return said.status

    def _last_said(self) -> BatchProgress | None:
        said = self._results.progress if self._results else None
        if said is not self._said:
            self._said, self._said_at, self._said_results = said, time.monotonic(), self._totals.results
        return said

    def _figures(self) -> Figures:
        said, done = self._last_said(), self._totals.results + self._bad_rows
        figures = Figures(done, self._rows, self._totals.failed + self._bad_rows, standing=self._standing(said))
        if figures.standing == HELD:
            return figures
        rate, token_rate = self._rates()
        left = self._predicted_s_left(said)
        if left is None and rate:
            left = (self._rows - done) / rate
        tokens_per_s = token_rate or (said and said.tokens_per_s) or None
        return replace(figures, items_per_s=rate, tokens_per_s=tokens_per_s, s_left=left)

    def _rates(self) -> tuple[float | None, float | None]:
        """New results and their tokens, each second, of late."""
        if self._totals.results <= self._known_until or self._samples[-1][0] == self._samples[0][0]:
            return None, None
        (began, results, tokens), (until, last_results, last_tokens) = self._samples[0], self._samples[-1]
        return (last_results - results) / (until - began), (last_tokens - tokens) / (until - began)
