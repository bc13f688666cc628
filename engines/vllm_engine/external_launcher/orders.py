"""What the workers tell each other before every step, and whether they are still of one mind.

Each worker has a scheduler of its own. They schedule the same as long as they add and abort the same requests in the
same order between the same steps: so only the leader hears of requests, and hands them on as orders. What each worker
has put out so far goes along as a digest.
"""

from collections.abc import Sequence
from enum import IntFlag
from typing import NamedTuple

import msgspec


class Orders(msgspec.Struct, array_like=True):
    """What a rank's workers do before their next step, additions first."""

    adds: list[bytes] = []  # requests, as vLLM encodes them for its engine core
    aborts: list[str] = []  # request ids
    is_last: bool = False  # there is no next step: they end

    def __bool__(self) -> bool:
        return bool(self.adds or self.aborts or self.is_last)


class Intent(IntFlag):
    """What a worker says of the step to come."""

    IDLE = 0
    WORK = 1  # it has requests, or is about to get orders: everybody steps
    END = 2  # its rank is being stopped: everybody ends


class Head(NamedTuple):
    """What a worker says before a step, as numbers of 64 bits."""

    orders_bytes: int  # of the encoded orders that follow; 0: there are none
    steps: int  # that it has made
    digest: int  # of all that it has put out
    intent: int  # an Intent


class WorkersDisagree(Exception):
    """The workers have not done the same. What they work on together would be wrong from here on."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Orders).decode


def encode(orders: Orders) -> bytes:
    """The orders as they travel; nothing when there are none."""
    return _encode(orders) if orders else b""


def decode(frame: bytes) -> Orders:
    """The orders that a leader sent."""
    return _decode(frame) if frame else Orders()


def together(heads: Sequence[Head]) -> Intent:
    """What all do, as soon as one of them has reason to."""
    intent = 0
    for head in heads:
        intent |= head.intent
    return Intent(intent)


def check_agreement(heads: Sequence[Head], workers: int) -> None:
    """Raises WorkersDisagree unless all made as many steps, and each rank's workers put out the same.

    The heads are in the order of the workers' numbers; `workers` of them in a row are one rank's.
    """
    for number, head in enumerate(heads):
        leader = heads[number - number % workers]
        if head.steps != heads[0].steps:
            raise WorkersDisagree(
                f"torchrun's workers are out of step: worker {number} has made {head.steps}, worker 0 {heads[0].steps}"
            )
        if head.digest != leader.digest:
            raise WorkersDisagree(
                f"torchrun's workers disagree: in step {head.steps} or shortly before, worker {number} put out "
                f"something else than worker {number - number % workers}"
            )
