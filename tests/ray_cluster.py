"""A Ray cluster on this machine: nodes started with `ray start`, on addresses of 127.0.0.0/8.

Each has a folder of its own, where its processes stand: so a node can be killed with all that runs there.
"""

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil

from tests.service import DEADLINE_S, Json, Service, until, with_title

RAY = str(Path(sys.executable).with_name("ray"))
ROOT = str(Path(__file__).parents[1])
OURS = ("phalanx-", "ray::AgentHolder", "app.placed_node", "hosts.ray.driver")
FAKE_HEAD = "f" * 51 + "0" * 5  # what Ray's provider of pretended machines takes for the head's id
NOTICE = {  # dead nodes are noticed after seconds, and a busy machine's are no dead ones
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
}


class RayNode:
    """One node: `ray start` and all that is below it."""

    def __init__(
        self, address: str, flags: tuple[str, ...], program: tuple[str, ...], variables: dict[str, str]
    ) -> None:
        self.address = address
        self.folder = Path(tempfile.mkdtemp(prefix="pr-", dir="/tmp"))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PHALANX_", "RAY_"))}
        own = {
            "TMPDIR": str(self.folder),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": ROOT,
        }
        self._log = self.folder / "ray.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*program, "start", "--block", "--node-ip-address", address, *flags],
                cwd=self.folder,
                env=inherited | own | NOTICE | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """What `ray start` has printed."""
        return self._log.read_text(errors="replace")

    def wait_started(self) -> None:
        """Until it is part of its cluster."""
        until(lambda: "Ray runtime started" in self.log or self._ended(), "the node does not start")

    def processes(self) -> list[psutil.Process]:
        """All that stand in its folder."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                found += [process] if process.cwd() == str(self.folder) else []
        return found

    def ours(self) -> list[str]:
        """Of those, what a gateway has started there."""
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                line = " ".join(process.cmdline())
                found += [line] if any(name in line for name in OURS) else []
        return found

    def titled(self, title: str) -> list[int]:
        """Process numbers of those with this in their title."""
        return with_title(self.processes(), title)

    def raylets(self) -> int:
        """How many of Ray's nodes there are: an autoscaler starts them beside its head."""
        return len(self.titled("raylet/raylet"))

    def kill(self) -> None:
        """As if its machine were gone: everything there, at once."""
        for _ in range(2):  # what was being started the first time, too
            for process in self.processes():
                with suppress(psutil.Error):
                    process.kill()
        self.process.wait()

    def kill_raylet(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Ray alone."""
        for pid in self.titled("raylet/raylet"):
            os.kill(pid, number)

    def discard(self) -> None:
        """Ends whatever is left."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _ended(self) -> bool:
        assert self.process.poll() is None, f"`ray start` ended with exit code {self.process.returncode}: {self.log}"
        return False


class RayCluster:
    """A head without room for ranks, and nodes with room for so many each."""

    def __init__(
        self, nodes: int = 2, cpus: int = 2, *flags: str, program: tuple[str, ...] = (RAY,), **variables: str
    ) -> None:
        self._net = f"127.{random.randint(2, 250)}.{random.randint(0, 250)}"
        self._program = program
        self._variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)} | variables
        self._cpus = cpus
        self._flags = flags
        self._first = nodes
        self._count = 0
        self.nodes: list[RayNode] = []
        self.services: list[Service] = []
        self._temp = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
        self._port = _free_port(f"{self._net}.1")
        self._head_flags: tuple[str, ...] = ()
        self._head_variables: dict[str, str] = {}
        self.head: RayNode

    @property
    def address(self) -> str:
        """Of its head."""
        return f"{self._net}.1:{self._port}"

    @property
    def client_address(self) -> str:
        """Of its head, for Ray Client."""
        return f"ray://{self._net}.1:{self._client_port}"

    def autoscale(self, config: Path, *, is_v2: bool) -> None:
        """Before it is started: Ray's autoscaler is to start nodes, as the file says."""
        self._head_flags = (f"--autoscaling-config={config}",)
        head_id = {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD, "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD}
        own = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_TMPDIR": str(self._temp)}
        self._head_variables = own | ({"RAY_enable_autoscaler_v2": "1"} | head_id if is_v2 else {})

    def start_head(self) -> None:
        """Until it answers, at the port of an earlier head."""
        flags = ("--head", "--port", str(self._port), "--num-cpus", "0", "--include-dashboard=false")
        self._client_port = _free_port(f"{self._net}.1")
        files = ("--temp-dir", str(self._temp), "--ray-client-server-port", str(self._client_port))
        variables = self._variables | self._head_variables
        self.head = RayNode(f"{self._net}.1", (*flags, *files, *self._head_flags), self._program, variables)
        self.head.wait_started()

    def restart_head(self) -> None:
        """The head dies, and another one comes in its place, which knows nothing of it."""
        self.head.discard()
        self.start_head()

    def add_node(self, *flags: str, cpus: int | None = None, **variables: str) -> RayNode:
        """Until it is part of the cluster. One after the other: Ray numbers their sockets."""
        self._count += 1
        own = ("--address", self.address, "--num-cpus", str(self._cpus if cpus is None else cpus))
        node = RayNode(
            f"{self._net}.{self._count + 1}", (*own, *self._flags, *flags), self._program, self._variables | variables
        )
        self.nodes.append(node)
        node.wait_started()
        return node

    def serve(self, *flags: str, dp_size: int = 2, address: str | None = None, **more: Any) -> Service:
        """A gateway that listens; its ranks are being placed."""
        where = ("--launcher", "ray", "--ray-address", address or self.address)
        service = Service(*where, *flags, dp_size=dp_size, variables=self._variables, **more)
        self.services.append(service)
        service.errors_expected = True
        service.start()
        return service

    def change(self, **variables: str) -> None:
        """What is started from now on has these."""
        self._variables |= variables

    @property
    def environment(self) -> dict[str, str]:
        """Of commands of Ray's that ask the cluster."""
        return dict(os.environ) | self._variables

    def ours(self) -> list[str]:
        """What is left of gateways on any node."""
        return [line for node in (self.head, *self.nodes) for line in node.ours()]

    def drain(self, node_id: str) -> None:
        """Ray is told that the node is about to be taken away."""
        node = ("--node-id", node_id, "--deadline-remaining-seconds", "600")
        why = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "preempted")
        command = [RAY, "drain-node", "--address", self.address, *node, *why]
        subprocess.run(command, env=self.environment, check=True, timeout=60, capture_output=True)

    def with_rank(self, rank: int) -> RayNode:
        """The node that a rank runs on."""
        (found,) = [node for node in self.nodes if node.titled(f"phalanx-rank {rank}")]
        return found

    def check_nothing_left(self, deadline_s: float = 30.0) -> None:
        """Of any gateway, on any node."""
        until(lambda: not self.ours(), f"processes are left: {self.ours()}", deadline_s)

    def __enter__(self) -> Self:
        try:
            self.start_head()
            for _ in range(self._first):
                self.add_node()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            for service in self.services:
                print(service.log)  # noqa: T201  pytest shows it with the failure
            for log in self._temp.glob("session_latest/logs/worker-*.err"):
                print(log, log.read_text(errors="replace")[-3000:])  # noqa: T201  the same
        self._discard()

    def _discard(self) -> None:
        for service in self.services:
            service.discard()
        for node in (*self.nodes, self.head):
            node.discard()
        shutil.rmtree(self._temp, ignore_errors=True)


def placed_on(service: Service) -> dict[int, str | None]:
    """The nodes of Ray's that the ranks are on."""
    return {rank["rank"]: rank["ray_node_id"] for rank in service.ranks()}


def nodes_of(service: Service) -> list[Json]:
    """/v1/nodes, but for the gateway's own machine."""
    found: list[Json] = service.client.get("/v1/nodes").json()["data"]
    return [node for node in found if node["node"]]


def wait_serving(service: Service) -> None:
    """Until any rank takes items."""
    until(lambda: service.client.get("/health").status_code == 200, "nothing is served", DEADLINE_S)


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
