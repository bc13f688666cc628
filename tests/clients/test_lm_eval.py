"""EleutherAI's evaluation harness, by the commands of docs/openai.md: the scores of small tasks, and each
log-probability, as straight from vLLM."""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients.environments import Client
from tests.clients.server import Server
from tests.documented import example
from tests.service import Json

TASKS = Path(__file__).with_name("tasks")
TIMEOUT_S = 140
ALLOWED_DIFFERENCE = 1e-3  # of log-probabilities: which requests share a step is chance


@dataclass(frozen=True)
class Evaluation:
    """What the harness wrote down."""

    scores: dict[str, Json]  # by task
    samples: dict[str, list[Json]]  # by task, in the order of its questions


def evaluate(harness: Client, server: Server, model: str, tasks: list[str]) -> Evaluation:
    """Runs the documented command for this kind of model."""
    commands = example("sh", "### lm-eval").replace("\\\n", "").splitlines()
    (command,) = [command for command in commands if f" --model {model} " in command]
    command = server.filled(command).replace("FOLDER", str(server.tokenizer)).replace("TASK", ",".join(tasks))
    found = harness.home / f"{model}-{server.url.rpartition(':')[2]}"
    harness.run(
        *shlex.split(command),
        *("--include_path", str(TASKS), "--output_path", str(found), "--log_samples"),
        timeout_s=TIMEOUT_S,
        cwd=TASKS,  # which the tasks name their data from
        variables={"OPENAI_API_KEY": server.shown_key},
    )
    (results,) = found.rglob("results_*.json")
    samples = {}
    for task in tasks:
        (lines,) = found.rglob(f"samples_{task}_*.jsonl")
        read = [json.loads(line) for line in lines.read_text().splitlines()]
        samples[task] = sorted(read, key=lambda sample: int(sample["doc_id"]))
    return Evaluation(json.loads(results.read_text())["results"], samples)


@pytest.fixture(scope="module")
def harness(client: Callable[[str], Client]) -> Client:
    return client("lm-eval")


def test_completions_score_as_straight_from_vllm(harness: Client, server: Server, straight: Server) -> None:
    tasks = ["capitals_choice", "capitals_cloze"]
    ours, theirs = (evaluate(harness, which, "local-completions", tasks) for which in (server, straight))
    assert ours.scores == theirs.scores
    assert 0 < ours.scores["capitals_choice"]["acc,none"] < 1, "a score that could be chance's"
    assert answers(ours, "capitals_cloze") == answers(theirs, "capitals_cloze")
    assert logprobs(ours) == pytest.approx(logprobs(theirs), abs=ALLOWED_DIFFERENCE)


def test_chats_score_as_straight_from_vllm(harness: Client, server: Server, straight: Server) -> None:
    ours, theirs = (
        evaluate(harness, which, "local-chat-completions", ["capitals_chat"]) for which in (server, straight)
    )
    assert ours.scores == theirs.scores
    assert 0 < ours.scores["capitals_chat"]["exact_match,none"] < 1, "a score that could be chance's"
    assert answers(ours, "capitals_chat") == answers(theirs, "capitals_chat")


def answers(evaluation: Evaluation, task: str) -> list[list[Any]]:
    """Of each question: a text, or a log-probability and whether it is greedy for each choice."""
    return [sample["filtered_resps"] for sample in evaluation.samples[task]]


def logprobs(evaluation: Evaluation) -> list[float]:
    """Of each of the choices of each question."""
    choices = [choice for answer in answers(evaluation, "capitals_choice") for choice in answer]
    assert len(choices) == 4 * len(evaluation.samples["capitals_choice"])
    return [float(logprob) for logprob, _ in choices]
