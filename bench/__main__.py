"""`python -m bench NAME [FLAGS]`: runs one measurement; without a name, says which there are."""

import importlib
import signal
import sys

MEASUREMENTS = {
    "throughput": "the engines called directly, `vllm serve` and Phalanx, on the same prompts",
    "gateway": "what an item costs the gateway, with simulated ranks",
    "peers": "the gateway beside LitServe and a bare FastAPI application, with the same simulated work",
    "wire": "what an item costs the gateway by the wire to its rank: ipc, TCP, TCP with CURVE",
    "seed-workload": "four prompts x 100 as one request, sampled with parameters of their own",
    "seed-shape": "data_parallel.py's own shape, DP=2 x TP=2, with the same weights as one rank alone",
    "recovery": "how soon a service is itself again after a kill -9 in the midst of a batch",
    "start": "how soon `phalanx serve` and `vllm serve` are ready, with the same settings",
    "settings": "engine settings against each other: by Phalanx, `vllm serve`, or directly",
    "structures": "what each backend of structured outputs holds of a corpus, and what it costs",
    "batches": "batches in the background: a million items on simulated ranks; beside the same attached",
    "journal": "the durable store: results/s, a million items in, reads from the midst; SQLite and PostgreSQL",
    "exchanges": "OpenAI's API beside `vllm serve`; streams; a chat's first token under a batch",
    "run-batch": "a file of OpenAI's batch lines: `vllm run-batch` beside Phalanx's /v1/batches",
    "scale": "8 and 64 ranks by simulation, with the real dispatcher: cost, tail, losses, fairness, several gateways",
    "ray-cost": "a gateway with ranks placed by Ray beside one without: start, memory, lag; two ranks, four, one",
    "readme": "no measurement: README's table and plot of the speed, from figures that are kept",
    "gpu-moe": "PowerMoE-3b's shape over two GPUs, with a report in JSON and markdown",
}


def main() -> int:
    """The exit code of the measurement."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in MEASUREMENTS:
        print("usage: python -m bench NAME [FLAGS]   (NAME --help tells its flags)\n")
        for known, what in MEASUREMENTS.items():
            print(f"  {known:14} {what}")
        return 0 if name in ("", "-h", "--help") else 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped on the way out
    module = importlib.import_module(f"bench.{name.replace('-', '_')}")
    code: int = module.main(sys.argv[2:], prog=f"python -m bench {name}")
    return code


if __name__ == "__main__":
    sys.exit(main())
