"""Machines as network namespaces on this one, joined by a bridge. Needs root and iproute2."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

SUBNET = 7  # 10.213.7.0/24
TESTS = 254
WAYS = ("INPUT", "OUTPUT")  # to a node, and from it
TOOLS = ("ip", "iptables")
MTU = 9000  # of the slow network: fewer frames for its switch


def missing() -> str | None:
    """What this machine lacks for it."""
    if os.geteuid() != 0:
        return "root"
    return next((tool for tool in TOOLS if shutil.which(tool) is None), None)


class Network:
    """So many nodes, numbered from 0, in 10.213.`subnet`.0/24. The tests themselves are at .254."""

    def __init__(self, nodes: int, subnet: int = SUBNET) -> None:
        self._nodes = range(nodes)
        self._subnet = f"10.213.{subnet}"
        self._prefix = f"px{os.getpid():x}{subnet:02x}"  # an interface's name has 15 characters at most

    def address(self, node: int) -> str:
        """Of a node."""
        return f"{self._subnet}.{node + 1}"

    def enter(self, node: int) -> tuple[str, ...]:
        """What a command begins with that is to run there."""
        return ("ip", "netns", "exec", self._name(node))

    def cut(self, node: int, ways: Iterable[str] = WAYS) -> None:
        """From now on what it and other nodes send each other is dropped, both ways or one; nobody is told."""
        tests = f"{self._subnet}.{TESTS}"
        for way in ways:
            interface, peer = ("-i", "-s") if way == "INPUT" else ("-o", "-d")
            rule = ("!", interface, "lo", "!", peer, tests, "-j", "DROP")
            _run(*self.enter(node), "iptables", "-w", "-I", way, *rule)

    def mend(self, node: int) -> None:
        """The opposite."""
        _run(*self.enter(node), "iptables", "-w", "-F")

    @contextmanager
    def up(self, delay_s: float = 0.0) -> Iterator["Network"]:
        """It is there inside the block; with a delay, every packet takes so long one way."""
        with self._slow_up(delay_s) if delay_s else self._fast_up():
            yield self

    @contextmanager
    def _slow_up(self, delay_s: float) -> Iterator[None]:
        own, devices = f"{self._prefix}t", [f"{self._prefix}t{node}" for node in self._nodes]
        command = [sys.executable, "-m", "tests.netns.slow_switch", str(delay_s), own, *devices]
        switch = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert switch.stdout is not None and switch.stdout.readline()
            _run("ip", "addr", "add", f"{self._subnet}.{TESTS}/24", "dev", own)
            _run("ip", "link", "set", own, "mtu", str(MTU), "up")
            for node, device in zip(self._nodes, devices, strict=True):
                name = self._name(node)
                _run("ip", "netns", "add", name)
                _run("ip", "link", "set", device, "netns", name)
                _run("ip", "-n", name, "link", "set", device, "name", "eth0", "mtu", str(MTU))
                self._address(node)
            yield
        finally:
            self._remove_namespaces()
            switch.kill()
            switch.wait()

    @contextmanager
    def _fast_up(self) -> Iterator[None]:
        bridge = f"{self._prefix}b"
        try:
            _run("ip", "link", "add", bridge, "type", "bridge")
            _run("ip", "addr", "add", f"{self._subnet}.{TESTS}/24", "dev", bridge)
            _run("ip", "link", "set", bridge, "up")
            for node in self._nodes:
                name, outer, inner = self._name(node), f"{self._prefix}v{node}", "eth0"
                _run("ip", "netns", "add", name)
                _run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name)
                _run("ip", "link", "set", outer, "master", bridge, "up")
                self._address(node)
            yield
        finally:
            self._remove_namespaces()
            subprocess.run(["ip", "link", "del", bridge], check=False, stderr=subprocess.DEVNULL)  # noqa: S607

    def _address(self, node: int) -> None:
        name = self._name(node)
        _run("ip", "-n", name, "addr", "add", f"{self.address(node)}/24", "dev", "eth0")
        _run("ip", "-n", name, "link", "set", "eth0", "up")
        _run("ip", "-n", name, "link", "set", "lo", "up")

    def _remove_namespaces(self) -> None:
        for node in self._nodes:
            subprocess.run(["ip", "netns", "del", self._name(node)], check=False, stderr=subprocess.DEVNULL)  # noqa: S607

    def _name(self, node: int) -> str:
        return f"{self._prefix}n{node}"


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
