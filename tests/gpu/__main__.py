"""Values at the edge of what vLLM's workers on a GPU can hold: each is refused or runs, and costs nobody else anything.

`make gpu` starts a service on the GPUs of this host with the small random model. Every request has a good prompt
beside the bad one; the good one must be answered, by a rank that has not been restarted.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.phalanx_server import serving

INT64_MAX = 2**63 - 1
REFUSED = "invalid_sampling_params"
EITHER = "either"  # it is refused or runs: where the edge is, is the engine's business
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Case:
    """Sampling parameters, and what becomes of the item: a status, or an error's code."""

    name: str
    params: dict[str, Any]  # Any: JSON
    expected: str


CASES = (
    Case("the second output's seed overflows", {"seed": INT64_MAX, "n": 2}, EITHER),
    Case("the largest seed", {"seed": INT64_MAX}, "ok"),
    Case("the smallest seed", {"seed": -(2**63), "n": 2}, EITHER),
    Case("1,023 allowed tokens", {"allowed_token_ids": list(range(1, 1024))}, "ok"),
    Case("1,025 allowed tokens", {"allowed_token_ids": [7] * 1025}, REFUSED),
    Case("1,025 biases", {"logit_bias": {str(token): 0.5 for token in range(1025)}}, REFUSED),
    Case("129 stop tokens with min_tokens", {"stop_token_ids": list(range(100, 229)), "min_tokens": 1}, REFUSED),
    Case("129 stop tokens alone", {"stop_token_ids": list(range(100, 229))}, EITHER),
    Case("bad words of more than 1,024 tokens", {"bad_words": ["zyx" * 20 + str(word) for word in range(60)]}, EITHER),
    Case("129 tokens whose logprobs are wanted", {"logprobs": 1, "logprob_token_ids": list(range(129))}, REFUSED),
    Case("a temperature beyond float32", {"temperature": 1e308}, REFUSED),
    Case("a temperature below float32", {"temperature": 1e-320}, EITHER),
    Case("a repetition penalty beyond float32", {"repetition_penalty": 1e39}, REFUSED),
    Case("a bias beyond float32", {"logit_bias": {"5": -1e39}}, REFUSED),
    Case("the largest top_k", {"top_k": 2**31 - 1}, "ok"),
    Case("seed -1, four outputs", {"seed": -1, "n": 4}, "ok"),
    Case("max_tokens beyond any context", {"max_tokens": 2**31 - 1, "stop_token_ids": list(range(1, 100))}, "ok"),
)


def _send(client: httpx.Client, case: Case) -> str:
    """What became of the item; AssertionError when its neighbour was not answered."""
    prompts = [{"prompt": "Hello"}, {"prompt": "Hello", "sampling_params": case.params}]
    answer = client.post("/v1/batch_generate", json={"prompts": prompts, "sampling_params": {"max_tokens": 4}})
    answer.raise_for_status()
    good, other = answer.json()["results"]
    assert good["status"] == "ok", f"{case.name}: its neighbour got {good}"
    return str(other["error"]["code"] if "error" in other else other["status"])


def _restarts(client: httpx.Client) -> int:
    return sum(rank["restarts"] for rank in client.get("/v1/ranks").json()["data"])


@contextmanager
def _client(given: argparse.Namespace) -> Iterator[httpx.Client]:
    if given.url:
        with httpx.Client(base_url=given.url, timeout=TIMEOUT_S, trust_env=False) as client:
            yield client
        return
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        arguments = ["--model", given.model, "--device", given.device, *given.flags.split()]
        with serving(arguments, Path(folder)) as server:
            yield server.client


def main() -> int:
    """1 when a case went otherwise, or a rank was restarted."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--url", help="of a service that runs; default: one is started")
    parser.add_argument("--model", default="phalanx-tiny-random")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--flags", default="", help="more flags of `phalanx serve`")
    given = parser.parse_args()
    wrong = 0
    with _client(given) as client:
        for case in CASES:
            became = _send(client, case)
            restarts = _restarts(client)
            fine = became in {case.expected} | ({"ok", REFUSED} if case.expected == EITHER else set()) and not restarts
            wrong += not fine
            print(f"{'    ' if fine else 'BAD '}{case.name}: {became}, {restarts} restarts", flush=True)
    print(f"{len(CASES) - wrong} passed, {wrong} failed")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
