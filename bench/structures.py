"""What the backends of structured outputs make of a corpus of structures, and what a structure costs.

One service of one rank for each backend, on the tiny model. Of each structure some samples are generated: it is held if
all that ended are what it says, refused if no sample ran, not held if an output had to be turned down. Costs are ratios
to the same work without a structure, in turn with it.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from bench.phalanx_server import PhalanxServer, serving
from bench.processes import MeasurementFailed

CORPUS = Path(__file__).parents[1] / "tests" / "structures.json"
BACKENDS = ("guidance", "xgrammar", "outlines", "lm-format-enforcer")
SAMPLES = 16
ROUNDS = 5
# It goes on for as long as it is let.
ENDLESS = {"json": {"type": "array", "items": {"type": "integer"}, "minItems": 1000}}
SHORT = {"json": {"type": "boolean"}}
# What runs at once, tokens of each, and the structure; without it, the same tokens of plain text.
COSTS: dict[str, tuple[int, int, dict[str, Any]]] = {  # Any: JSON
    "1 sequence, 256 tokens": (1, 256, ENDLESS),
    "256 sequences, 64 tokens": (256, 64, ENDLESS),
    "1,024 items that end after some 4 tokens": (1024, 8, SHORT),
}
HELD, REFUSED, NOT_HELD, UNDECIDED, FAILED = "held", "refused", "not held", "never ended", "failed"
BY_CODE = {"invalid_sampling_params": REFUSED, "invalid_structured_output": NOT_HELD}


def main(arguments: list[str], prog: str) -> int:
    """1 when no backend could be measured."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS), choices=BACKENDS)
    given = parser.parse_args(arguments)
    corpus = json.loads(CORPUS.read_text())
    print(f"{len(corpus)} structures, {SAMPLES} samples of each\n")
    print(f"| backend | {HELD} | {REFUSED} | {NOT_HELD} | {UNDECIDED} | {' | '.join(COSTS)} |")
    print("|---" * (5 + len(COSTS)) + "|", flush=True)
    details: list[str] = []
    for backend in given.backends:
        try:
            details += _measure(backend, corpus)
        except (MeasurementFailed, httpx.HTTPError) as error:
            print(f"| {backend} | {error} |")
            print(f"{backend}: {error}", file=sys.stderr)
    print("\n" + "\n".join(details))
    return int(not details)


def _measure(backend: str, corpus: list[dict[str, Any]]) -> list[str]:
    """Prints a row of the table. What was not held, by name."""
    config = json.dumps({"structured_outputs_config": {"backend": backend}, "max_num_seqs": 256})
    flags = ["--dp-size", "1", "--engine-args", config]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, serving(flags, Path(folder)) as server:
        outcomes = {entry["name"]: _outcome(server, entry["structure"]) for entry in corpus}
        counts = Counter(outcomes.values())
        if counts[FAILED]:
            raise MeasurementFailed(f"{counts[FAILED]} of {len(corpus)} structures could not be compiled at all")
        costs = [_shown_cost(server, *work) for work in COSTS.values()]
    figures = [str(counts[outcome]) for outcome in (HELD, REFUSED, NOT_HELD, UNDECIDED)]
    print(f"| {backend} | {' | '.join(figures + costs)} |", flush=True)
    return [f"{backend}, {outcome}: {', '.join(_named(outcomes, outcome)) or '-'}" for outcome in (NOT_HELD, UNDECIDED)]


def _named(outcomes: dict[str, str], outcome: str) -> list[str]:
    return [name for name, found in outcomes.items() if found == outcome]


def _outcome(server: PhalanxServer, structure: dict[str, Any]) -> str:
    """Of all samples together: the worst that happened."""
    items = [
        {"prompt": f"{seed}", "sampling_params": {"structured_outputs": structure, "seed": seed}}
        for seed in range(SAMPLES)
    ]
    results = _answer(server, items, {"temperature": 1.0, "max_tokens": 400})["results"]
    found = {BY_CODE.get(result["error"]["code"], FAILED) for result in results if result["status"] == "error"}
    for outcome in (FAILED, REFUSED, NOT_HELD):
        if outcome in found:
            return outcome
    ends = {output["finish_reason"] for result in results for output in result["outputs"]}
    return HELD if "stop" in ends else UNDECIDED


def _shown_cost(server: PhalanxServer, sequences: int, tokens: int, structure: dict[str, Any]) -> str:
    """A backend need not hold this structure."""
    return f"{_cost(server, sequences, tokens, structure):.2f}" if _outcome(server, structure) != REFUSED else REFUSED


def _cost(server: PhalanxServer, sequences: int, tokens: int, structure: dict[str, Any]) -> float:
    """Seconds a token with the structure, over seconds a token without it: the median of some rounds."""
    prompts = [f"Item {number}" for number in range(sequences)]
    common = {"temperature": 0.0, "max_tokens": tokens}
    with_it = common | {"structured_outputs": structure}
    _answer(server, prompts, with_it)  # it is compiled
    ratios = []
    for _ in range(ROUNDS):
        held_s, held_tokens = _time(server, prompts, with_it)
        plain = common | {"ignore_eos": True, "max_tokens": max(1, held_tokens // sequences)}
        plain_s, plain_tokens = _time(server, prompts, plain)
        ratios.append((held_s / held_tokens) / (plain_s / plain_tokens))
    return statistics.median(ratios)


def _time(server: PhalanxServer, prompts: list[str], params: dict[str, Any]) -> tuple[float, int]:
    answer = _answer(server, prompts, params)
    if answer["request_counts"]["ok"] != len(prompts):
        raise MeasurementFailed(f"not all items were answered: {answer['request_counts']}")
    return float(answer["stats"]["wall_s"]), int(answer["usage"]["completion_tokens"])


def _answer(server: PhalanxServer, prompts: list[Any], params: dict[str, Any]) -> dict[str, Any]:
    answer = server.client.post("/v1/batch_generate", json={"prompts": prompts, "sampling_params": params})
    if answer.status_code != 200:
        raise MeasurementFailed(f"{answer.status_code} {answer.text[:300]}")
    body: dict[str, Any] = answer.json()
    return body
