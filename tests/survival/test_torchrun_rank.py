"""A rank alone, of two workers that torchrun has started, which loses the other one. Real vLLM through HTTP."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from engines.host.shared_memory import mapped_by
from tests.e2e.conftest import PROMPT_COUNT, as_items, mixed_prompts
from tests.service import Json, Service, serving, until

pytestmark = pytest.mark.timeout(900)
GREEDY = {"temperature": 0.0, "max_tokens": 12}
FOLLOWER = "phalanx-worker 0.1"
CULPRIT = 5  # of eight
LOOK_AGAIN_S = 0.2


def texts(answer: Json) -> list[str]:
    return [result["outputs"][0]["text"] for result in answer["results"]]


def test_a_worker_that_is_killed_costs_no_item_and_no_text_and_leaves_nothing(dense_model: Path) -> None:
    """What the rank says undisturbed is compared with vllm.LLM in tests/e2e."""
    flags = (str(dense_model), "--enforce-eager", "--executor", "external_launcher", "--tp-size", "2")
    items = as_items(mixed_prompts())
    with serving(*flags, engine="vllm", dp_size=1, variables={"TORCHDYNAMO_DISABLE": "1"}) as service:
        undisturbed = service.batch(items, sampling_params=GREEDY)
        service.errors_expected = True
        long = service.begin(["on and on"] * 10, sampling_params={"max_tokens": 500, "ignore_eos": True})
        with service.begin(items, sampling_params=GREEDY) as pending:
            until(lambda: sum(service.held) > 10, "it does not run")
            (pid,) = service.titled(FOLLOWER)
            shared = set[Path]().union(*(mapped_by(process.pid) for process in service.processes()))
            next(process for process in service.processes() if process.pid == pid).send_signal(signal.SIGKILL)
            until(lambda: service.health()["status"] == "unavailable", "nobody noticed", 15)
            (rank,) = service.ranks()
            assert f"{FOLLOWER} (pid {pid}) ended unexpectedly" in rank["last_error"]
            answer = pending.answer()
        assert texts(answer) == texts(undisturbed)
        assert answer["request_counts"]["ok"] == PROMPT_COUNT
        assert long.answer()["request_counts"]["ok"] == 10
        assert shared and not [path for path in shared if path.exists()]


@contextlib.contextmanager
def killing_whoever_runs(service: Service, index: int) -> Iterator[None]:
    """Kills a worker each time it has been given the item: nothing but that item's presence is the cause."""
    over = threading.Event()

    def watch() -> None:
        killed_for = 0
        while not over.wait(LOOK_AGAIN_S):
            dispatched = len(service.facts("item_dispatched", index=index))
            workers = service.titled(FOLLOWER) if dispatched > killed_for else []
            if workers:
                killed_for = dispatched
                psutil.Process(workers[0]).send_signal(signal.SIGKILL)

    watcher = threading.Thread(target=watch, name="killer")
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def test_an_item_whose_presence_kills_a_worker_is_found_and_all_others_are_answered(dense_model: Path) -> None:
    flags = (str(dense_model), "--enforce-eager", "--executor", "external_launcher", "--tp-size", "2")
    variables = {"TORCHDYNAMO_DISABLE": "1"}
    with serving(*flags, "--log-level", "debug", engine="vllm", dp_size=1, variables=variables) as service:
        service.errors_expected = True
        with killing_whoever_runs(service, CULPRIT):
            answer = service.batch(["on and on"] * 8, sampling_params={"max_tokens": 400, "ignore_eos": True})
        assert [result["status"] for result in answer["results"]] == ["ok"] * CULPRIT + ["error"] + ["ok"] * 2
        assert answer["results"][CULPRIT]["error"]["code"] == "poisoned"
        (rank,) = service.ranks()
        assert rank["restarts"] <= 5  # k (ceil(log2 N) + 1) + 1, for one among eight
