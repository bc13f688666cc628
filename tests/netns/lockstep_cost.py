"""`python -m tests.netns.lockstep_cost`: lock-step and replicas over two nodes, by how far apart these are.

Real vLLM on this machine's CPU, one rank a node, and packets that take as long as told. Both groups have all cores at
any time: one is stopped before the other starts.
"""

import argparse
import statistics
import time

from tests.netns.network import Network, missing
from tests.nodes import Cluster


def tokens_per_s(network: Network, flags: list[str], given: argparse.Namespace) -> list[float]:
    """Of each run after the first."""
    greedy = {"temperature": 0.0, "max_tokens": given.tokens, "ignore_eos": True}
    prompts = [f"{index}. The capital of France is" for index in range(given.prompts)]
    found = []
    more = {"engine": "vllm", "dp_size": 2, "master": network.address(0), "enter": network.enter}
    with Cluster("--insecure", *flags, **more) as cluster:  # type: ignore[arg-type]
        cluster.start_agent()
        service = cluster.start_gateway("--host", network.address(0)).wait_ready()
        for _ in range(given.runs + 1):
            began = time.monotonic()
            answer = service.batch(prompts, sampling_params=greedy)
            assert answer["request_counts"]["ok"] == given.prompts
            found.append(given.prompts * given.tokens / (time.monotonic() - began))
        service.stop()
    return found[1:]


def main() -> None:
    """A table on standard output."""
    parser = argparse.ArgumentParser(prog="python -m tests.netns.lockstep_cost", description=__doc__)
    parser.add_argument("--delays-ms", type=float, nargs="+", default=[0.0, 0.2, 1.0], help="one way")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    lacks = missing()
    if lacks is not None:
        raise SystemExit(f"this takes {lacks}")
    print("| one way | lock-step, tokens/s | replicas, tokens/s | ratio | added to a step |\n|---|---|---|---|---|")  # noqa: T201
    first: float | None = None
    for delay_ms in given.delays_ms:
        with Network(2).up(delay_ms / 1e3) as network:
            lockstep = statistics.median(tokens_per_s(network, [], given))
            replicas = statistics.median(tokens_per_s(network, ["--no-expert-parallel"], given))
        step_ms = given.prompts / lockstep * 1e3  # each step gives a token to every prompt
        first = first or step_ms
        print(  # noqa: T201
            f"| {delay_ms:g} ms | {lockstep:.0f} | {replicas:.0f} | {lockstep / replicas:.2f} "
            f"| {step_ms - first:.1f} ms |",
            flush=True,
        )


if __name__ == "__main__":
    main()
