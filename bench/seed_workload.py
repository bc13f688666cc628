"""The workload of vLLM's data_parallel.py as one request: four prompts x 100, sampled, with two output lengths.

There every rank gets its part of the list and a max_tokens of its own, 16 or 20; here every item brings its own.
"""

import argparse
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import httpx

from bench.phalanx_server import TIMEOUT_S, PhalanxServer, serving
from bench.processes import MeasurementFailed
from bench.workload import BEGINNINGS

REPEATS = 100
MAX_TOKENS = (16, 20)
SAMPLING = {"temperature": 0.8, "top_p": 0.95}
ALLOWED_IMBALANCE = 0.10  # of the items of the rank that did most


def batch() -> dict[str, Any]:  # Any: JSON
    """The request."""
    prompts = [
        {"custom_id": f"seed-{index}", "prompt": prompt, "sampling_params": {"max_tokens": MAX_TOKENS[index % 2]}}
        for index, prompt in enumerate(list(BEGINNINGS) * REPEATS)
    ]
    return {"prompts": prompts, "sampling_params": SAMPLING}


def problems(sent: dict[str, Any], body: dict[str, Any], ranks: int) -> list[str]:
    """What is wrong with the answer, in sentences."""
    found = [
        f"{result['custom_id']}: {result.get('error', result['status'])}"
        for result in body["results"]
        if result["status"] != "ok"
    ]
    ids = [result["custom_id"] for result in body["results"]]
    if ids != [prompt["custom_id"] for prompt in sent["prompts"]]:
        found.append("the results are not those of the prompts, in order")
    for result, prompt in zip(body["results"], sent["prompts"], strict=False):
        limit = prompt["sampling_params"]["max_tokens"]
        if result["usage"]["completion_tokens"] > limit:
            found.append(f"{result['custom_id']}: {result['usage']['completion_tokens']} tokens, above {limit}")
    items = [share["items"] for share in body["stats"]["ranks"]]
    if len(items) != ranks:
        found.append(f"{len(items)} of {ranks} ranks took part")
    if max(items) - min(items) > ALLOWED_IMBALANCE * max(items):
        found.append(f"the ranks did {items} items: more than {ALLOWED_IMBALANCE:.0%} apart")
    return found


def show(body: dict[str, Any]) -> None:
    """The answer as a markdown table."""
    stats, usage = body["stats"], body["usage"]
    print("| rank | items | prompt tokens | output tokens | busy s |\n|---|---|---|---|---|")
    for share in stats["ranks"]:
        print(
            f"| {share['rank']} | {share['items']} | {share['prompt_tokens']} | {share['completion_tokens']} "
            f"| {share['busy_s']:.3f} |"
        )
    counts = ", ".join(f"{count} {status}" for status, count in body["request_counts"].items())
    print(
        f"\n{body['model']}: {counts}; {usage['completion_tokens']} tokens in {stats['wall_s']:.3f} s, "
        f"{usage['completion_tokens'] / stats['wall_s']:.0f} tokens/s, balance {stats['balance_ratio']}, "
        f"tail {stats['tail_s']:.3f} s"
    )


def _service(arguments: argparse.Namespace, folder: str) -> AbstractContextManager[str | PhalanxServer]:
    if arguments.url:
        return nullcontext(str(arguments.url))
    return serving(["--dp-size", "2", *(["--model", arguments.model] if arguments.model else [])], Path(folder))


def main(arguments: list[str], prog: str) -> int:
    """1 when an item failed or a rank did too little."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="a running service; without one, one with two ranks is started")
    parser.add_argument("--model", help="of the service that is started")
    given = parser.parse_args(arguments)
    sent = batch()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            with _service(given, folder) as service:
                url = service if isinstance(service, str) else service.url
                with httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client:
                    ranks = len(client.get("/v1/ranks").json()["data"])
                    answer = client.post("/v1/batch_generate", json=sent)
        except (MeasurementFailed, httpx.HTTPError) as error:
            print(f"no answer: {error}", file=sys.stderr)
            return 1
    if answer.status_code != 200:
        print(f"{answer.status_code} {answer.text}", file=sys.stderr)
        return 1
    show(answer.json())
    found = problems(sent, answer.json(), ranks)
    for problem in found:
        print(f"FAILED {problem}")
    return int(bool(found))
