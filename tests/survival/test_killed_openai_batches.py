"""Batches of OpenAI's API on real vLLM whose gateway and engine cores are killed again and again: one line each."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import UNCOMPILED
from tests.exchanging import CHAT, COMPLETIONS, ask
from tests.openai_batches import FollowedBatch
from tests.service import START_DEADLINE_S, Json, Service, until
from tests.survival.test_detached import kill, started
from tests.survival.test_lost_exchanges import core_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

TOKENS = 8
GREEDY: Json = {"temperature": 0.0, "max_tokens": TOKENS, "ignore_eos": True}
CHATS, PROMPTS = 5000, 1000
REFUSED_EVERY = 97
REFUSED: tuple[Json, ...] = ({"temperature": -1.0}, {"top_p": 7.0})
LIVES = 3  # that end with kill -9 amid the batches, each with a core killed before
LOADING_S = 10.0  # within which one more gateway is killed, while its ranks load
LOOK_S = 0.25
FEWEST, MOST = 100, 600  # lines between two kills
COMPARED = 400  # one line of so many with the answer of a rank to which nothing happens


def test_kills_of_gateways_and_engine_cores_leave_one_line_for_each_request(tmp_path: Path, dense_model: Path) -> None:
    chance = random.Random(5)
    batches = [
        FollowedBatch(
            "chats", CHAT, {f"chat-{number}": body(number, messages=said(number)) for number in range(CHATS)}
        ),
        FollowedBatch("completions", COMPLETIONS, {f"text-{n}": body(n, prompt=f"Hello {n}") for n in range(PROMPTS)}),
    ]
    flags = ("--enforce-eager", "--restart-backoff-s", "50ms")
    for life in range(LIVES + 2):
        with started(tmp_path / "data", dense_model, *flags, dp_size=2, variables=UNCOMPILED) as service:
            if life == 1:
                time.sleep(chance.uniform(0, LOADING_S))
                kill(service)
                continue
            for batch in batches:
                batch.submit(service)
            read_more(service, batches, chance)
            kill_core(service, chance)
            if life <= LIVES:
                read_more(service, batches, chance)
                kill(service)
                continue
            for batch in batches:
                assert batch.follow(service, START_DEADLINE_S)["status"] == "completed"
                check(service.wait_ready(), batch)
            until(service.is_idle, "something is left")
            assert service.metric("phalanx_items_poisoned_total") == 0
            service.errors_expected = True
            service.stop()


def body(number: int, **asked: object) -> Json:
    refused = REFUSED[number % len(REFUSED)] if number % REFUSED_EVERY == 0 else {}
    return {**asked, **GREEDY, **refused}


def said(number: int) -> list[Json]:
    return [{"role": "user", "content": f"Hi {number}"}]


def read_more(service: Service, batches: list[FollowedBatch], chance: random.Random) -> None:
    """Some lines more than there are, and they go on."""
    wanted = look_at(service, batches) + chance.randint(FEWEST, MOST)
    deadline = time.monotonic() + START_DEADLINE_S
    while look_at(service, batches) < wanted:
        assert time.monotonic() < deadline, f"fewer than {wanted} lines come"
        time.sleep(LOOK_S)
    assert any(batch.shown["status"] == "in_progress" for batch in batches), "they have ended too early"


def look_at(service: Service, batches: list[FollowedBatch]) -> int:
    """Lines of all that there are now."""
    for batch in batches:
        batch.look(service)
    return sum(len(batch.heard) for batch in batches)


def kill_core(service: Service, chance: random.Random) -> None:
    """Of one of the ranks that have one."""
    serving = until(lambda: [rank for rank in service.ranks() if rank["state"] == "ready"], "no rank is ready")
    os.kill(core_of(chance.choice(serving)), signal.SIGKILL)


def check(service: Service, batch: FollowedBatch) -> None:
    """Each request was answered, or refused by vLLM, once; some texts are compared."""
    answered, failed = batch.check(service)
    assert failed.keys() == {name for place, name in enumerate(batch.bodies) if place % REFUSED_EVERY == 0}
    for line in failed.values():
        assert line["error"] is None and line["response"]["status_code"] == 400, line
        assert line["response"]["body"]["error"]["message"]
    usages = [line["response"]["body"]["usage"] for line in answered.values()]
    assert {usage["completion_tokens"] for usage in usages} == {TOKENS}
    for name in list(answered)[::COMPARED]:
        undisturbed = ask(service, batch.endpoint, **batch.bodies[name]).json()
        assert answered[name]["response"]["body"]["choices"] == undisturbed["choices"], name
