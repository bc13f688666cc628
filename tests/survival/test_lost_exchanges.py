"""Requests in OpenAI's API on real vLLM whose engine cores go in the midst of them, in the two ways that there are."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import UNCOMPILED
from tests.exchanging import CHAT, COMPLETIONS, ask, streaming
from tests.service import START_DEADLINE_S, Json, serving, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

TOKENS = 300
BODY: Json = {"temperature": 0.0, "max_tokens": TOKENS, "ignore_eos": True}
ASKED: list[tuple[str, Json]] = [
    *((COMPLETIONS, {"prompt": f"Hello {number}"}) for number in range(6)),
    *((CHAT, {"messages": [{"role": "user", "content": f"Hi {number}"}]}) for number in range(3)),
]


def core_of(rank: Json) -> int:
    (core,) = [
        process.pid
        for process in psutil.Process(rank["pid"]).children(recursive=True)
        if "VLLM::EngineCore" in " ".join(process.cmdline())
    ]
    return core


def test_a_core_that_goes_is_not_noticed_but_by_streams_that_have_begun(dense_model: Path) -> None:
    """One is killed; the other is told to end, and ends its requests as if they were finished, with what there is."""
    flags = (str(dense_model), "--enforce-eager", "--restart-backoff-s", "50ms")
    with (
        serving(*flags, engine="vllm", dp_size=2, variables=UNCOMPILED) as service,
        ThreadPoolExecutor(len(ASKED)) as aside,
    ):
        service.errors_expected = True
        service.client.timeout = START_DEADLINE_S  # a rank has to start again until they are answered
        with (
            streaming(service, COMPLETIONS, prompt="seen", **BODY) as one,
            streaming(service, COMPLETIONS, prompt="seen too", **BODY) as other,
        ):
            streams = [iter(one), iter(other)]
            for seen in streams:
                next(seen)
            answers = [aside.submit(ask, service, path, **prompt, **BODY) for path, prompt in ASKED]
            until(lambda: sum(service.held) == 2 + len(ASKED), "they do not run")
            told, killed = map(core_of, service.ranks())
            os.kill(told, signal.SIGTERM)
            os.kill(killed, signal.SIGKILL)
            for seen in streams:
                *_, last = seen
                assert isinstance(last, dict)
                assert last["error"]["code"] in ("rank_lost", "engine_error")
        for (path, _), answer in zip(ASKED, answers, strict=True):
            found = answer.result()
            assert found.status_code == 200, (path, found.text)
            assert found.json()["choices"][0]["finish_reason"] == "length"
            assert found.json()["usage"]["completion_tokens"] == TOKENS
        service.wait_ready()
        again = ask(service, COMPLETIONS, **ASKED[0][1], **BODY).json()
        assert again["choices"] == answers[0].result().json()["choices"]
        until(service.is_idle, "something is left")
        assert service.metric("phalanx_items_poisoned_total") == 0
