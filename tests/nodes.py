"""A service on several nodes: a gateway on 127.0.0.1 and agents on the same machine, each in a folder of its own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import psutil

from engines.contract.node_keys import write_node_keys
from engines.host.wire import new_keys
from tests.service import COMMAND, DEADLINE_S, Json, Service, as_object, until, with_title

MASTER = "127.0.0.2"


def free_port() -> int:
    """A port of node 0's that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((MASTER, 0))
        return int(probe.getsockname()[1])


class Agent:
    """A running `phalanx serve --node-rank N`."""

    def __init__(
        self,
        node: int,
        *flags: str,
        enter: tuple[str, ...] = (),
        program: tuple[str, ...] = (COMMAND,),
        variables: dict[str, str] | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pn-", dir="/tmp"))
        self._log = self.folder / "agent.log"
        command = [*enter, *program, "serve", "--log-format", "json", "--node-rank", str(node), *flags]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PHALANX_")}
        own = {"TMPDIR": str(self.folder), "XDG_STATE_HOME": str(self.folder / "state")} | (variables or {})
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=inherited | own, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    def facts(self, name: str) -> list[Json]:
        """Events of this name."""
        lines = (line for line in self.log.splitlines() if line.startswith("{") and line.endswith("}"))
        return [fact for fact in map(as_object, lines) if fact.get("event") == name]

    def processes(self) -> list[psutil.Process]:
        """The agent and everything below it."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                found += [process] if process.cwd() == str(self.folder) else []
        return found

    def ranks(self) -> list[psutil.Process]:
        """What runs below it."""
        return [process for process in self.processes() if process.pid != self.process.pid]

    def titled(self, title: str) -> list[int]:
        """Process numbers of those with this in their title."""
        return with_title(self.processes(), title)

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Its exit code."""
        return self.process.wait(deadline_s)

    def check_nothing_left(self, deadline_s: float = 10.0) -> None:
        """No process and no folder of sockets, after a moment."""
        until(lambda: not self.processes(), "processes are left", deadline_s)
        until(lambda: not list(self.folder.glob("phalanx-*")), "a folder is left", deadline_s)

    def discard(self) -> None:
        """Ends whatever is left, however the test went."""
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Cluster:
    """A gateway and agents that are to belong together. Flags are those of all of them; `enter` is what a node's
    commands begin with."""

    def __init__(
        self,
        *flags: str,
        node_size: int = 2,
        dp_size: int = 4,
        engine: str = "simulated",
        master: str = MASTER,
        enter: Callable[[int], tuple[str, ...]] = lambda _: (),
        **engine_args: Any,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pk-", dir="/tmp"))
        self.keys_file = self.folder / "keys.json"
        write_node_keys(new_keys(), self.keys_file)
        self.port = free_port()
        self._nodes = ("--node-size", str(node_size), "--master-addr", master, "--master-port", str(self.port))
        self._flags = (*self._nodes, "--node-keys-file", str(self.keys_file), *flags)
        self._dp_size = dp_size
        self._engine = engine
        self._enter = enter
        self._engine_args = engine_args
        self.agents: list[Agent] = []
        self.gateways: list[Service] = []

    def start_gateway(self, *flags: str) -> Service:
        """Until it listens."""
        program = (*self._enter(0), COMMAND)
        service = Service(
            *self._flags, *flags, dp_size=self._dp_size, engine=self._engine, program=program, **self._engine_args
        )
        self.gateways.append(service)
        service.errors_expected = True  # a lost node is one
        service.start()
        return service

    def start_agent(self, node: int = 1, *flags: str, **more: Any) -> Agent:
        """Returns at once."""
        own = (
            "--engine",
            self._engine,
            "--dp-size",
            str(self._dp_size),
            "--engine-args",
            json.dumps(self._engine_args),
        )
        agent = Agent(node, *own, *self._flags, *flags, enter=self._enter(node), **more)
        self.agents.append(agent)
        return agent

    def drop_keys(self) -> None:
        """All that are started from now on go without."""
        self._flags = (*self._nodes, "--insecure")

    def kill_gateway(self) -> None:
        """The last one, without a word."""
        self.gateways[-1].process.kill()
        self.gateways[-1].process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            for peer in (*self.gateways, *self.agents):
                print(peer.log)  # noqa: T201  pytest shows it with the failure
        for service in self.gateways:
            service.discard()
        for agent in self.agents:
            agent.discard()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def clustered(*flags: str, **more: Any) -> Iterator[tuple[Cluster, Service, Agent]]:
    """Two nodes that are ready; both are stopped in the end, and must end well. Takes what Cluster takes."""
    with Cluster(*flags, **more) as cluster:
        agent = cluster.start_agent()
        service = cluster.start_gateway().wait_ready()
        yield cluster, service, agent
        if service.process.poll() is None:
            service.stop()
        for agent in cluster.agents:
            if agent.process.poll() is None:
                agent.process.send_signal(signal.SIGTERM)
                assert agent.wait() == 0
            agent.check_nothing_left()
            assert "Traceback" not in agent.log
