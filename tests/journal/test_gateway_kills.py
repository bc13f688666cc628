"""Batches in the background outlive their gateway, whenever and however it ends: one result an item, and no item whose
result is durable runs again. What ran is counted by the ranks; what is durable is read from the dead gateway's journal.
"""

import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from app.journal.place import Place, ServerPlace
from tests.journal.gateways import Gateways, LineReader, Reader
from tests.service import Service, until

SIZE = 5000
LONGEST_LIFE_S = 2.0  # a batch takes five, and a gateway one until its ranks are ready
BEGUN_SHARE = 0.7  # of lives that are counted from the first new result; others from when the gateway listens
TERM_SHARE, RANK_SHARE = 0.25, 0.3


@pytest.fixture
def gateways(place: Place, tmp_path: Path) -> Iterator[Gateways]:
    gateways = Gateways(place, tmp_path / "prompts")
    yield gateways
    gateways.discard()


@pytest.fixture
def ends(kills: int, place: Place) -> int:
    """How many gateways are ended: fewer on PostgreSQL, where each opening takes longer."""
    return kills * 2 // 5 if isinstance(place, ServerPlace) else kills


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", [Reader, LineReader], ids=["our own", "OpenAI's"])
def test_no_end_of_a_gateway_loses_or_repeats_what_is_durable(
    gateways: Gateways, ends: int, kind: type[Reader | LineReader]
) -> None:
    chance = random.Random(7)
    readers = [kind("batch 0", SIZE)]
    durable: dict[str, bytes] = {}
    ended_within = 0  # batches that were under way
    for _ in range(ends):
        service = gateways.start()
        number = signal.SIGTERM if chance.random() < TERM_SHARE else signal.SIGKILL
        loses_rank = chance.random() < RANK_SHARE
        errors: list[BaseException] = []
        reading = threading.Thread(target=read, args=(service, readers, errors))
        reading.start()
        if chance.random() < BEGUN_SHARE:
            until_new(readers, reading)
        time.sleep(chance.uniform(0, LONGEST_LIFE_S))
        if loses_rank:
            gateways.kill_rank()
        gateways.end(number, reading)
        if errors:
            raise errors[0]
        before, durable = durable, gateways.stored()
        check(gateways, before, durable, loses_rank=loses_rank)
        assert heard(readers) <= durable.keys(), "somebody has read what is not durable"
        ended_within += 0 < sum(prompt.startswith(f"{readers[-1].key} ") for prompt in durable) < SIZE
    service = gateways.start().wait_ready()
    readers[-1].run(service)
    check(gateways, durable, gateways.stored(), loses_rank=False)
    for reader in readers:
        reader.compare(service)
    until(service.is_idle, "something still runs")
    assert service.metric("phalanx_detached_batches") == 0
    gateways.end(signal.SIGTERM)
    assert ended_within >= ends // 3, "the gateways ended too early or too late to show anything"


def until_new(readers: Sequence[Reader | LineReader], reading: threading.Thread) -> None:
    """A result has come, or something is wrong."""
    had = len(heard(readers))
    until(lambda: len(heard(readers)) > had or not reading.is_alive(), "no result comes")


def read(service: Service, readers: list[Reader | LineReader], errors: list[BaseException]) -> None:
    """The last batch, and new ones after that, until the gateway ends."""
    try:
        with suppress(httpx.HTTPError):
            while True:
                readers[-1].run(service)
                readers.append(type(readers[0])(f"batch {len(readers)}", SIZE))
    except BaseException as error:  # noqa: BLE001  handed to the test
        errors.append(error)


def check(gateways: Gateways, before: dict[str, bytes], now: dict[str, bytes], *, loses_rank: bool) -> None:
    """What was durable before this gateway is so now, and none of it was given to a rank."""
    assert before.items() <= now.items(), "a durable result is gone, or another one"
    ran = gateways.ran()
    repeated = before.keys() & ran.keys()
    assert not repeated, f"{len(repeated)} items ran although they had results: {sorted(repeated)[:5]}"
    missing = now.keys() - before.keys() - ran.keys()
    assert not missing, f"results of items that no rank was given: {sorted(missing)[:5]}"
    if not loses_rank:
        assert set(ran.values()) <= {1}, "items ran twice, and no rank was lost"


def heard(readers: Sequence[Reader | LineReader]) -> set[str]:
    return set().union(*(reader.prompts_heard for reader in readers))
