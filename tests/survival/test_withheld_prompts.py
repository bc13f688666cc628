"""What vLLM logs when its engine dies: enough to see what it was doing, and nothing of what a client sent."""

import json
import signal
from pathlib import Path

import psutil
import pytest

from tests.service import Service, serving, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PROMPT = "Zanzibar quokka"
CHAT = "Timbuktu axolotl"
TOKEN_IDS = [911, 733, 577, 311]
PARAMS = {"stop": ["umbrella-stop"], "bad_words": ["marzipan-word"], "temperature": 0.777, "max_tokens": 1500}
ITEMS = [{"prompt": PROMPT}, {"messages": [{"role": "user", "content": CHAT}]}, {"prompt": TOKEN_IDS}]
GOT_REQUESTS = "EngineCore loop active"
SENT = [PROMPT, CHAT, "911, 733", "umbrella", "marzipan", "0.777"]


def named(service: Service, title: str) -> psutil.Process:
    """The process whose title holds this."""
    return next(process for process in service.processes() if title in " ".join(process.cmdline()))


def rank_log(service: Service) -> Path:
    (entry,) = service.ranks()
    return Path(entry["log_file"])


def die_working(service: Service) -> str:
    """Kills a worker while the engine waits for it with new requests; the rank's log once the engine has dumped.

    The rank itself is stopped meanwhile: it would see the worker's death and end its engine first. And so is the
    gateway, which would find the stall before a slow machine has dumped anything.
    """
    service.errors_expected = True
    worker, rank = named(service, "VLLM::Worker"), named(service, "phalanx-rank")
    log = rank_log(service)
    seen = log.read_text(errors="replace").count(GOT_REQUESTS)
    worker.send_signal(signal.SIGSTOP)
    with service.begin(ITEMS, sampling_params=PARAMS):
        until(lambda: log.read_text(errors="replace").count(GOT_REQUESTS) > seen, "the engine has got the requests")
        service.process.send_signal(signal.SIGSTOP)
        rank.send_signal(signal.SIGSTOP)
        worker.send_signal(signal.SIGKILL)
        until(lambda: "Dumping scheduler output" in log.read_text(errors="replace"), "it dumps what it did")
        until(lambda: "EngineCore encountered a fatal error" in log.read_text(errors="replace"), "it dies")
        rank.send_signal(signal.SIGCONT)
        service.process.send_signal(signal.SIGCONT)
    return log.read_text(errors="replace")


@pytest.mark.parametrize("log_format", ["json", "auto"])
def test_the_dump_at_an_engines_death_says_how_much_and_whose_but_not_what(
    log_format: str, dense_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    flags = [str(dense_model), "--enforce-eager", "--log-format", log_format]
    with serving(*flags, engine="vllm", dp_size=1) as service:
        log = die_working(service)
        assert not [text for text in SENT if text in log + service.log]
        for kept in (
            "NewRequestData(req_id=",
            "prompt_token_ids=<list of ",
            "total_num_scheduled_tokens=",
            "Traceback",
        ):
            assert kept in log
        if log_format == "json":
            lines = [line for line in log.splitlines() if line.startswith("{")]
            facts = [json.loads(line) for line in lines]
            assert {fact["rank"] for fact in facts} == {0}
            assert {fact["incarnation"] for fact in facts} == {1}
            assert "vllm.logging_utils.dump_input" in {fact["logger"] for fact in facts}
        else:
            assert "rank=0 incarnation=1 " in log


def test_an_operator_who_asks_for_prompts_gets_the_dump_as_vllm_makes_it(
    dense_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    with serving(str(dense_model), "--enforce-eager", "--log-prompts", engine="vllm", dp_size=1) as service:
        log = die_working(service)
        assert [text for text in SENT if text in log]
        assert not [text for text in SENT if text in service.log]
