"""The job of vLLM's torchrun_example.py, for a running Phalanx: four prompts with the same sampling parameters."""

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
]
# vLLM's SamplingParams stop at 16 tokens unless told otherwise; Phalanx's default is 1024.
SAMPLING = {"temperature": 0.8, "top_p": 0.95, "max_tokens": 16}
TIMEOUT_S = 60.0  # without a byte; a space comes every few seconds while the batch runs

Json = dict[str, Any]  # Any: JSON


def ask(url: str, api_key: str | None) -> list[Json]:
    """The results, in the order of the prompts. Ends the program if there are none."""
    batch = {"prompts": PROMPTS, "sampling_params": SAMPLING, "return_prompt": True}
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        answer = httpx.post(
            f"{url.rstrip('/')}/v1/batch_generate", json=batch, headers=headers, timeout=TIMEOUT_S, trust_env=False
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        sys.exit(f"no answer from {url}: {error}")
    if answer.is_error:
        sys.exit(f"{url} answers {answer.status_code}: {answer.text}")
    results: list[Json] = answer.json()["results"]
    return results


def main() -> int:
    """1 when a prompt has failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of Phalanx (%(default)s)")
    parser.add_argument("--api-key", default=os.environ.get("PHALANX_API_KEY"), help="or PHALANX_API_KEY")
    given = parser.parse_args()
    has_failed = False
    for result in ask(given.url, given.api_key):
        if result["status"] == "ok":
            text = result["outputs"][0]["text"]
            print(f"Prompt: {result['prompt']!r}, Generated text: {text!r}")
        else:
            print(f"Prompt: {result['prompt']!r}: {result['status']} {result.get('error', '')}", file=sys.stderr)
            has_failed = True
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
