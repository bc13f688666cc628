"""The job of vLLM's data_parallel.py, for a running Phalanx: 400 prompts in one request, five outputs of each rank."""

import argparse
import os
import sys
from typing import Any

import httpx

PROMPTS = [
    "Hello, my name is",
    "The president of the United States is",
    "The capital of France is",
    "The future of AI is",
] * 100
SHARES = 2  # vLLM's script cuts the list into one for each rank, two by default
MAX_TOKENS = (16, 20)  # of its even and its odd ranks
SHOWN = 5
TIMEOUT_S = 60.0  # without a byte; a space comes every few seconds while the batch runs

Json = dict[str, Any]  # Any: JSON


def request() -> Json:
    """The batch. The prompts of a share have the max_tokens that its rank would have given them."""
    share = len(PROMPTS) // SHARES
    prompts = [
        {"prompt": prompt, "sampling_params": {"max_tokens": MAX_TOKENS[index // share % 2]}}
        for index, prompt in enumerate(PROMPTS)
    ]
    return {"prompts": prompts, "sampling_params": {"temperature": 0.8, "top_p": 0.95}, "return_prompt": True}


def ask(url: str, api_key: str | None) -> list[Json]:
    """The results, in the order of the prompts. Ends the program if there are none."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        answer = httpx.post(
            f"{url.rstrip('/')}/v1/batch_generate", json=request(), headers=headers, timeout=TIMEOUT_S, trust_env=False
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        sys.exit(f"no answer from {url}: {error}")
    if answer.is_error:
        sys.exit(f"{url} answers {answer.status_code}: {answer.text}")
    results: list[Json] = answer.json()["results"]
    return results


def show(results: list[Json]) -> None:
    """The first outputs of each rank, as vLLM's script prints them."""
    by_rank: dict[int, list[Json]] = {}
    for result in results:
        if result["status"] == "ok":
            by_rank.setdefault(result["rank"], []).append(result)
    for rank, answered in sorted(by_rank.items()):
        print(f"DP rank {rank} has processed {len(answered)} prompts")
        for result in answered[:SHOWN]:
            text = result["outputs"][0]["text"]
            print(f"DP rank {rank}, Prompt: {result['prompt']!r}, Generated text: {text!r}")


def main() -> int:
    """1 when a prompt has failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of Phalanx (%(default)s)")
    parser.add_argument("--api-key", default=os.environ.get("PHALANX_API_KEY"), help="or PHALANX_API_KEY")
    given = parser.parse_args()
    results = ask(given.url, given.api_key)
    show(results)
    failed = [result for result in results if result["status"] != "ok"]
    for result in failed:
        print(f"prompts[{result['index']}]: {result['status']} {result.get('error', '')}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
