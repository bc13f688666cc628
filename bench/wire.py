"""What an item costs the gateway by the wire to its rank: a socket of this machine, TCP, and TCP with CURVE.

Two services run at once, one with keys and one without, each of two nodes with a simulated rank on each: node 0's rank
is reached by a socket in a folder, node 1's over TCP. In turn one of the two ranks is drained, and the other gets all.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from bench.gateway import Shot, fire, show
from bench.load_clients import Load, LoadClients, add_load_flags, loads_of
from bench.phalanx_server import PhalanxServer, serving
from bench.processes import Child, MeasurementFailed, free_port, wait_until
from engines.contract.node_keys import write_node_keys
from engines.host.wire import new_keys

STOP_GRACE_S = 30.0
RESTART_S = 60.0
SERVICES = {"tcp": False, "tcp + CURVE": True}  # whether it has keys
LOCAL = "ipc"


class Side(msgspec.Struct, kw_only=True):
    """All rounds of one wire with one load."""

    wire: str
    load: str
    shots: list[Shot] = []


@contextmanager
def _two_nodes(folder: Path, *, with_keys: bool) -> Iterator[PhalanxServer]:
    flags = ["--engine", "simulated", "--dp-size", "2", "--node-size", "2", "--master-addr", "127.0.0.1"]
    flags += ["--master-port", str(free_port())]
    if with_keys:
        keys = folder / "keys.json"
        write_node_keys(new_keys(), keys)
        flags += ["--node-keys-file", str(keys)]
    else:
        flags.append("--insecure")
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PHALANX_")}
    command = [sys.executable, "-P", "-m", "phalanx", "serve", *flags, "--node-rank", "1"]
    agent = Child([*command, "--log-dir", str(folder / "agent-ranks")], folder / "agent.log", variables)
    try:
        with serving([*flags, "--node-rank", "0"], folder) as server:
            yield server
    finally:
        agent.stop(STOP_GRACE_S)


@contextmanager
def _without(server: PhalanxServer, rank: int) -> Iterator[None]:
    """The other rank gets everything."""
    server.client.post(f"/v1/ranks/{rank}/drain").raise_for_status()
    try:
        yield
    finally:
        server.client.post(f"/v1/ranks/{rank}/restart").raise_for_status()
        ready = wait_until(lambda: server.client.get("/health").json()["status"] == "ok", RESTART_S)
        if not ready:
            raise MeasurementFailed(f"rank {rank} is not ready again after {RESTART_S:g} s")


def measure(servers: dict[str, PhalanxServer], loads: list[Load], rounds: int, processes: int) -> list[Side]:
    """Round 0 warms up and is not kept."""
    kept = {(wire, load.name): Side(wire=wire, load=load.name) for load in loads for wire in (LOCAL, *servers)}
    turns = [
        (LOCAL, list(servers)[-1], 1),
        *((name, name, 0) for name in servers),
    ]  # wire, service, rank that is drained
    with ExitStack() as stack:
        clients = {name: stack.enter_context(LoadClients(server.url, processes)) for name, server in servers.items()}
        for number in range(rounds + 1):
            for wire, name, drained in turns[number % len(turns) :] + turns[: number % len(turns)]:
                with _without(servers[name], drained):
                    time.sleep(0.5)
                    for load in loads:
                        shot, _ = fire(servers[name], clients[name], load, number)
                        print(f"{wire:12}", end="")
                        show(shot)
                        if shot.errors:
                            raise MeasurementFailed(f"{wire}: {shot.errors[0]}")
                        if number:
                            kept[wire, load.name].shots.append(shot)
    return list(kept.values())


def table(sides: list[Side]) -> str:
    """For people."""
    lines = ["| wire to the rank | load | gateway CPU us an item, median | each round | against ipc |"]
    lines.append("|---|---|---|---|---|")
    base = {side.load: statistics.median(shot.cpu_us for shot in side.shots) for side in sides if side.wire == LOCAL}
    for side in sides:
        median = statistics.median(shot.cpu_us for shot in side.shots)
        every = ", ".join(f"{shot.cpu_us:.1f}" for shot in side.shots)
        lines.append(f"| {side.wire} | {side.load} | {median:.1f} | {every} | {median / base[side.load]:.2f} |")
    return "\n".join(lines)


def main(arguments: list[str], prog: str) -> int:
    """1 when an answer was wrong."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_load_flags(parser, rounds=6)
    given = parser.parse_args(arguments)
    loads = loads_of(given)
    try:
        with ExitStack() as stack:
            servers = {}
            for name, with_keys in SERVICES.items():
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
                servers[name] = stack.enter_context(_two_nodes(folder, with_keys=with_keys))
            sides = measure(servers, loads, given.rounds, given.processes)
    except MeasurementFailed as error:
        print(error)
        return 1
    print(table(sides))
    return 0
