"""Plays ranks that batch continuously, for the tests beside this file, in a time of its own: hours take milliseconds.

As many sequences as there are slots run at once, each makes a token a step, and a step takes longer the more there are.
A few more are sent in advance, as the dispatcher does.
"""

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass, field

from app.batches.lengths import LengthPrior
from app.batches.pace import Pace
from app.batches.prediction import BatchForecast, BatchSize, WorkAhead

PREFETCH = 16


@dataclass
class Job:
    """A batch: the tokens that each item would make without `max_tokens`."""

    lengths: list[int]
    max_tokens: int
    begins_at_s: float = 0.0
    sent: int = 0
    held: int = 0
    done: int = 0
    forecast: BatchForecast = field(init=False)

    def tokens(self, index: int) -> int:
        return min(self.lengths[index], self.max_tokens)


@dataclass
class Ranks:
    """Steps take `base_s` and `slope_s` for each sequence."""

    base_s: float = 0.01
    slope_s: float = 1e-4
    slots: int = 256

    def __post_init__(self) -> None:
        self.now_s = 0.0
        self.pace = Pace(self.slots, lambda: self.now_s)

    def run(self, *jobs: Job, marks: tuple[float, ...] = ()) -> list[float]:
        """Runs the jobs until the first one is done: predicted / true time that was left at each of the marks, which
        are shares of its items."""
        began, predicted = self.now_s, []
        for job in jobs:
            size = BatchSize(len(job.lengths), job.max_tokens * len(job.lengths))
            job.forecast = BatchForecast(size, self.pace, LengthPrior())
        first, due = jobs[0], [math.ceil(mark * len(jobs[0].lengths)) for mark in marks]
        queue: deque[tuple[Job, int]] = deque()
        running: list[tuple[int, int, int]] = []  # heap: step of its end, number of the job, index
        step = 0
        while first.done < len(first.lengths):
            self._send([job for job in jobs if job.begins_at_s <= self.now_s - began], queue)
            while queue and len(running) < self.slots:
                job, index = queue.popleft()
                heapq.heappush(running, (step + job.tokens(index), jobs.index(job), index))
            self.now_s += (running[0][0] - step) * (self.base_s + self.slope_s * len(running))
            step = running[0][0]
            while running and running[0][0] == step:
                _, number, index = heapq.heappop(running)
                self._end(jobs[number], index)
            while due and first.done >= due[0]:
                due.pop(0)
                predicted.append((self.now_s, first.forecast.predict(self._ahead(first, jobs))))
        return [seconds / (self.now_s - at) for at, seconds in predicted if seconds is not None and self.now_s > at]

    def _send(self, jobs: list[Job], queue: deque[tuple[Job, int]]) -> None:
        while sum(job.held for job in jobs) < self.slots + PREFETCH:
            waiting = [job for job in jobs if job.sent < len(job.lengths)]
            if not waiting:
                return
            job = min(waiting, key=lambda job: job.held)
            job.forecast.started(job.sent)
            queue.append((job, job.sent))
            job.sent += 1
            job.held += 1

    def _end(self, job: Job, index: int) -> None:
        job.held -= 1
        job.done += 1
        tokens = job.tokens(index)
        job.forecast.finished(index, tokens, is_cut=tokens == job.max_tokens)

    def _ahead(self, job: Job, jobs: tuple[Job, ...]) -> WorkAhead:
        beside = sum(other.forecast.expected_tokens for other in jobs if other is not job and other.sent)
        return WorkAhead(self.slots, share=0.5 if beside else 1.0, tokens_beside=beside)


def lognormal(chance: random.Random, items: int, median: float, sigma: float) -> list[int]:
    """Lengths as those of answers are: most are short, some are very long."""
    return [max(1, int(median * math.exp(chance.gauss(0, sigma)))) for _ in range(items)]


def used_ranks(**fields: float) -> Ranks:
    """Ranks that have run a batch before, of other lengths."""
    ranks = Ranks(**fields)
    ranks.run(Job(lognormal(random.Random(5), 600, 150, 1.0), 1000))
    return ranks
