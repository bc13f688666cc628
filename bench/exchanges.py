"""OpenAI's API beside `vllm serve` on the same model, in one run, alternating: an unstreamed completion of one client
at a time, many clients at once, and many streams. And what a stream costs the gateway, and how long a chat's first
token takes while nothing else runs and under a batch in the background.

With `--engine simulated` there is no peer: the gateway alone is measured.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bench.engine_settings import DEFAULTS, EngineSettings, detect_device, inspect, merge
from bench.lean_client import Exchange, ask_all
from bench.phalanx_server import PhalanxServer
from bench.processes import cost_of
from bench.vllm_server import VllmServer

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
PARTS = 8
PAUSE_S = 1.5  # vLLM's workers spin for a second after a step
WORDS = ("sea", "tree", "stone", "river", "night", "paper", "light", "wind")


class Options(msgspec.Struct):
    """How much of each."""

    requests: int  # of one client, one after another
    at_once: int  # requests of many clients
    clients: int
    streams: int
    tokens: int  # of each answer
    stream_tokens: int
    rounds: int
    chats: int  # for the time to the first token
    batch_items: int


def completion(number: int, tokens: int, *, stream: bool = False, model: str) -> bytes:
    """A body; each has a prompt of its own."""
    words = " ".join(WORDS[(number >> shift) % len(WORDS)] for shift in range(0, 24, 3))
    body = {"model": model, "prompt": f"{number}: {words}", "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    return msgspec.json.encode(body | ({"stream": True} if stream else {}))


def chat(number: int, tokens: int, model: str) -> bytes:
    """A chat whose answer streams."""
    messages = [{"role": "user", "content": f"{number}: tell me of the {WORDS[number % len(WORDS)]}"}]
    body = {"model": model, "messages": messages, "max_tokens": tokens, "stream": True, "ignore_eos": True}
    return msgspec.json.encode(body)


class Side:
    """One server, and what was measured of it."""

    def __init__(self, name: str, server: PhalanxServer | VllmServer, model: str) -> None:
        self.name, self.server, self.model = name, server, model
        self.latencies_ms: list[float] = []
        self.per_s: list[float] = []
        self.stream_tokens_per_s: list[float] = []
        self.stream_us: list[float] = []

    def run_alone(self, options: Options, number: int, part: int) -> None:
        """A part of a round's requests of one client."""
        count = options.requests // PARTS
        first = number * 1_000_000 + part * count
        bodies = [completion(first + index, options.tokens, model=self.model) for index in range(count)]
        alone = self._ask(COMPLETIONS, bodies, 1)
        self.latencies_ms.append(statistics.median(exchange.seconds for exchange in alone) * 1e3)

    def run(self, options: Options, number: int) -> None:
        """The rest of a round."""
        first = number * 1_000_000 + options.requests
        bodies = [completion(first + index, options.tokens, model=self.model) for index in range(options.at_once)]
        began = time.perf_counter()
        self._ask(COMPLETIONS, bodies, options.clients)
        self.per_s.append(len(bodies) / (time.perf_counter() - began))
        self._run_streams(options, first + options.at_once)
        print(
            f"round {number} {self.name}: {_median(self.latencies_ms[-PARTS:]):.2f} ms, "
            f"{self.per_s[-1]:.0f} requests/s, streams "
            f"{self.stream_tokens_per_s[-1]:.0f} tokens/s, {self.stream_us[-1]:.0f} us of the front process a token",
            flush=True,
        )

    def _run_streams(self, options: Options, first: int) -> None:
        bodies = [
            completion(first + index, options.stream_tokens, stream=True, model=self.model)
            for index in range(options.streams)
        ]
        before, began = cost_of(self.server.pids[0]).cpu_s, time.perf_counter()
        self._ask(COMPLETIONS, bodies, options.streams)
        tokens = options.streams * options.stream_tokens
        self.stream_tokens_per_s.append(tokens / (time.perf_counter() - began))
        self.stream_us.append((cost_of(self.server.pids[0]).cpu_s - before) / tokens * 1e6)

    def first_tokens_ms(self, count: int, first: int, pause_s: float = 0.05) -> list[float]:
        """Of chats, one after another."""
        found = []
        for index in range(count):
            (exchange,) = self._ask(CHAT, [chat(first + index, 4, self.model)], 1)
            found.append(exchange.first_s * 1e3)
            time.sleep(pause_s)
        return sorted(found)

    def _ask(self, path: str, bodies: list[bytes], connections: int) -> list[Exchange]:
        return asyncio.run(ask_all(self.server.url, path, bodies, connections))


def measure(sides: list[Side], options: Options) -> None:
    """Rounds in turns; the first warms up.

    What one client waits for is taken in many short parts: on few cores a server is in luck or out of it, for seconds,
    with where its processes run.
    """
    for number in range(options.rounds + 1):
        turns = sides if number % 2 else sides[::-1]
        for part in range(PARTS):
            for side in turns:
                side.run_alone(options, number, part)
                time.sleep(PAUSE_S)
        for side in turns:
            side.run(options, number)
            time.sleep(PAUSE_S)
        if number == 0:
            for side in sides:
                for figures in (side.latencies_ms, side.per_s, side.stream_tokens_per_s, side.stream_us):
                    figures.clear()


def report(sides: list[Side]) -> None:
    """Medians, their spread, and the ratios."""
    for side in sides:
        print(
            f"{side.name}: latency {_spread(side.latencies_ms, '{:.2f}')} ms, {_spread(side.per_s)} requests/s, "
            f"streams {_spread(side.stream_tokens_per_s)} tokens/s, front process {_spread(side.stream_us)} us a token"
        )
    if len(sides) == 2:
        ours, theirs = sides
        print(
            f"Phalanx / vllm serve: latency {_median(ours.latencies_ms) / _median(theirs.latencies_ms):.3f}, "
            f"requests/s {_median(ours.per_s) / _median(theirs.per_s):.3f}, "
            f"tokens/s of streams {_median(ours.stream_tokens_per_s) / _median(theirs.stream_tokens_per_s):.3f}"
        )


def first_tokens(side: Side, options: Options, batch_tokens: int) -> None:
    """The time to a chat's first token, idle and under a batch in the background."""
    side.first_tokens_ms(10, 9_000_000)
    idle = side.first_tokens_ms(options.chats, 10_000_000)
    prompts = [f"{number}: {WORDS[number % 8]} and {WORDS[number % 7]}" for number in range(options.batch_items)]
    params = {"max_tokens": batch_tokens, "temperature": 0, "ignore_eos": True}
    body = {"prompts": prompts, "sampling_params": params, "background": True}
    with httpx.Client(base_url=side.server.url, timeout=600, trust_env=False) as client:
        batch = client.post("/v1/batch_generate", json=body).raise_for_status().json()
        time.sleep(5)
        busy = side.first_tokens_ms(options.chats, 11_000_000)
        shown = client.get(f"/v1/batch_generate/{batch['id']}").json()
        client.post(f"/v1/batch_generate/{batch['id']}/cancel")
    print(f"first token of a chat, idle: {_percentiles(idle)}")
    print(
        f"under a batch of {options.batch_items}: {_percentiles(busy)} ({shown['status']}, {shown['request_counts']})"
    )
    print(f"p99 busy / idle: {_p99(busy) / _p99(idle):.2f}; p50: {_median(busy) / _median(idle):.2f}", flush=True)


def _percentiles(values: list[float]) -> str:
    return f"p50 {_median(values):.1f} ms, p90 {values[int(len(values) * 0.9)]:.1f} ms, p99 {_p99(values):.1f} ms"


def _p99(values: list[float]) -> float:
    return values[min(len(values) - 1, int(len(values) * 0.99))]


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _spread(values: list[float], form: str = "{:.0f}") -> str:
    return f"{form.format(_median(values))} ({form.format(min(values))} to {form.format(max(values))})"


def main(arguments: list[str], prog: str) -> int:
    """0 when everything was measured."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--engine", choices=["vllm", "simulated"], default="vllm")
    parser.add_argument("--model", default="phalanx-tiny-random")
    parser.add_argument("--dp-size", type=int, default=1)
    parser.add_argument("--device", help="cuda or cpu; what there is")
    parser.add_argument("--engine-args", default="{}", help="JSON, over the defaults of both sides")
    parser.add_argument("--flags", default="", help="more flags of `phalanx serve`")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=256)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--stream-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chats", type=int, default=200)
    parser.add_argument("--batch-items", type=int, default=20_000)
    parser.add_argument("--batch-tokens", type=int, default=64)
    parser.add_argument("--only", choices=["both", "serving", "first-tokens"], default="both")
    given = parser.parse_args(arguments)
    names = Options.__struct_fields__
    options = Options(**{name: getattr(given, name) for name in names})
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        _run(given, options, Path(folder))
    return 0


def _run(given: argparse.Namespace, options: Options, folder: Path) -> None:
    sides = _sides(given, folder)[: 1 if given.only == "first-tokens" else None]
    try:
        for side in sides:
            began = time.monotonic()
            side.server.start()
            print(f"{side.name} is ready after {time.monotonic() - began:.0f} s", flush=True)
        if given.only != "first-tokens":
            measure(sides, options)
            report(sides)
        if given.only != "serving":
            for side in sides[1:]:
                side.server.stop()
            first_tokens(sides[0], options, given.batch_tokens)
    finally:
        for side in sides:
            side.server.stop()


def _sides(given: argparse.Namespace, folder: Path) -> list[Side]:
    flags = given.flags.split()
    if given.engine == "simulated":
        arguments = ["--engine", "simulated", "--dp-size", str(given.dp_size), "--engine-args", given.engine_args]
        return [Side("Phalanx", PhalanxServer([*arguments, *flags], folder), "phalanx-simulated")]
    device = given.device or detect_device()
    found = inspect(given.model)
    over: dict[str, Any] = msgspec.json.decode(given.engine_args)  # Any: vLLM checks them
    settings = EngineSettings(
        model=found.model,
        is_moe=found.is_moe,
        dp_size=given.dp_size,
        device=device,
        arguments=merge(DEFAULTS[device], over),
    )
    ours = PhalanxServer.on(settings, folder, ["--served-model-name", found.model, *flags])
    return [Side("Phalanx", ours, found.model), Side("vllm serve", VllmServer(settings, folder, []), found.model)]
