"""Ctrl-C and the signals that ask a process to end: the batch is left running or cancelled. A second ends at once."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from phalanx.client import PhalanxError
from phalanx.generate.job import Job
from phalanx.generate.request import OnInterrupt
from phalanx.generate.service import Service

SAME_SIGNAL_S = 0.5  # `timeout`, and other parents in a terminal, send each signal twice
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal came."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    @property
    def exit_code(self) -> int:
        """As a shell has it: 130 for Ctrl-C."""
        return 128 + self.number


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block the first signal raises Interrupted, and another one later on ends the process."""
    first_at: float | None = None

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal first_at
        now = time.monotonic()
        if first_at is None:
            first_at = now
            raise Interrupted(number)
        if now - first_at > SAME_SIGNAL_S:
            os._exit(128 + number)

    former = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def choose(wish: OnInterrupt, number: int, is_terminal: bool) -> OnInterrupt:
    """What is done. Asks where that was wished for and somebody is there to answer."""
    if wish is not OnInterrupt.ASK:
        return wish
    if not is_terminal or number != signal.SIGINT:
        return OnInterrupt.LEAVE
    answer = click.prompt(
        "\nLeave the batch running, or cancel it?", type=click.Choice(["leave", "cancel"]), default="leave", err=True
    )
    return OnInterrupt(answer)


def settle(chosen: OnInterrupt, job: Job, service: Service, is_local: bool) -> str:
    """Leaves the batch, or cancels it. What has become of it."""
    batch_id = job.batch_id
    if batch_id is None:
        return "interrupted before a batch was accepted"
    if chosen is OnInterrupt.LEAVE:
        return f"interrupted: batch {batch_id} " + ("is kept, its service stopped" if is_local else "runs on")
    try:
        service.batch(batch_id).cancel()
    except PhalanxError as error:
        return f"interrupted, and batch {batch_id} could not be cancelled ({error})"
    return f"interrupted: batch {batch_id} is cancelled"
