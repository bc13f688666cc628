"""The Ray driver: a child process of the gateway, and the only one that imports ray.

Ray ends the process that has called `ray.init` when the head is away for long, and keeps it waiting at an address that
nobody answers at. None of that may happen to the gateway, and its memory and threads are not the gateway's either.
Orders come on standard input, whose end is the gateway's: all that runs in the cluster for it is ended then.
"""

import os
import select
import signal
import sys
import threading
import time
from typing import Any

import msgspec
import ray
from ray import cloudpickle
from ray.exceptions import RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from app.ranks.hosts.ray import holder, watcher
from app.ranks.hosts.ray.connecting import connect
from app.ranks.hosts.ray.messages import (
    SEEN_EVERY_S,
    AgentEnded,
    Connect,
    EndAgent,
    FromDriver,
    Place,
    PlaceRefused,
    Refused,
    Seen,
    StartAgent,
    ToDriver,
    Unplace,
    as_line,
    read_to_driver,
)
from app.ranks.hosts.ray.watcher import Watcher

LOOK_TIMEOUT_S = 5.0  # for an actor in the cluster
LOOK_S = 0.1  # how often it looks for agents that have ended
GENTLE_S = 15.0  # for an agent to end its ranks before it is killed
FAREWELL_S = 12.0  # for all of them, when the gateway is gone
NODE_LABEL = "ray.io/node-id"


class _Agent:
    """An agent that was started, as Ray has it."""

    def __init__(self, placement: str, actor: Any, ended: Any) -> None:  # Any: ray is untyped here
        self.placement = placement
        self.actor = actor
        self.ended = ended  # the result of its holder's `hold`
        self.kill_at: float | None = None  # once it was asked to end


class Driver:
    """Does what the gateway orders, and tells it what it sees."""

    def __init__(self, output: int, *, is_client: bool = False) -> None:
        self._output = output
        self._placements: dict[str, Any] = {}  # Any: ray's PlacementGroup
        self._leaving: set[str] = set()  # placement groups that are removed once nothing runs there
        self._agents: dict[str, _Agent] = {}
        self._holder = ray.remote(holder.AgentHolder)
        cloudpickle.register_pickle_by_value(holder)
        cloudpickle.register_pickle_by_value(watcher)
        self._watcher = ray.remote(Watcher).options(num_cpus=0, max_restarts=-1).remote() if is_client else None

    def say(self, message: FromDriver) -> None:
        """Raises BrokenPipeError where the gateway is gone."""
        left = memoryview(as_line(message))
        while left:
            left = left[os.write(self._output, left) :]

    def run(self) -> None:
        """Until standard input ends."""
        pending, next_look = b"", time.monotonic()
        while True:
            if select.select([0], [], [], LOOK_S)[0]:
                chunk = os.read(0, 65536)
                if not chunk:
                    return
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    self._obey(read_to_driver(line))
            self._look_for_ends()
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + SEEN_EVERY_S
                if (seen := self._look()) is not None:
                    self.say(seen)

    def end_all(self) -> None:
        """Ends all agents, and waits for a while."""
        for ticket in list(self._agents):
            self._end(ticket)
        deadline = time.monotonic() + FAREWELL_S
        while self._agents and time.monotonic() < deadline:
            self._collect()
            time.sleep(LOOK_S)

    # -- orders

    def _obey(self, order: ToDriver) -> None:
        try:
            self._carry_out(order)
        except (RayError, ValueError, TypeError, RuntimeError, OSError) as error:
            is_wrong = isinstance(error, ValueError | TypeError)
            match order:
                case Place():
                    self.say(PlaceRefused(placement=order.placement, reason=_last_line(error), is_final=is_wrong))
                case StartAgent():
                    self.say(AgentEnded(ticket=order.ticket, reason=_last_line(error), is_refused=is_wrong))
                case _:
                    raise

    def _carry_out(self, order: ToDriver) -> None:
        match order:
            case Place():
                selector = {NODE_LABEL: f"!in({','.join(order.avoid)})"} if order.avoid else {}
                self._placements[order.placement] = placement_group(
                    order.bundles,
                    strategy=order.strategy,
                    name=order.placement,
                    bundle_label_selector=[selector] * len(order.bundles) if order.avoid else None,
                )
            case Unplace():
                if order.placement in self._placements:  # Ray may have refused it
                    self._leaving.add(order.placement)
                for ticket, agent in list(self._agents.items()):
                    if agent.placement == order.placement:
                        self._end(ticket)
            case StartAgent():
                self._start(order)
            case EndAgent():
                self._end(order.ticket)

    def _start(self, order: StartAgent) -> None:
        group = self._placements[order.placement]
        resources = dict(group.bundle_specs[order.bundle])
        actor = self._holder.options(
            num_cpus=resources.pop("CPU", 0),
            num_gpus=resources.pop("GPU", 0),
            memory=resources.pop("memory", None),
            resources=resources,
            max_restarts=0,
            max_concurrency=2,
            runtime_env=order.runtime_env or None,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=order.bundle, placement_group_capture_child_tasks=False
            ),
        ).remote()
        self._agents[order.ticket] = _Agent(order.placement, actor, actor.hold.remote(order.told))

    def _end(self, ticket: str) -> None:
        agent = self._agents.get(ticket)
        if agent is not None and agent.kill_at is None:
            agent.kill_at = time.monotonic() + GENTLE_S
            agent.actor.let_go.remote()

    # -- looks

    def _look_for_ends(self) -> None:
        for ended in self._collect():
            self.say(ended)
        for placement in list(self._leaving):
            if not any(agent.placement == placement for agent in self._agents.values()):
                self._leaving.discard(placement)
                remove_placement_group(self._placements.pop(placement))

    def _collect(self) -> list[AgentEnded]:
        """Agents that have ended since the last time; their actors end, too."""
        found = []
        for ticket, agent in list(self._agents.items()):
            if ray.wait([agent.ended], timeout=0)[0]:
                found.append(_outcome(ticket, agent))
            elif agent.kill_at is not None and time.monotonic() > agent.kill_at:
                found.append(AgentEnded(ticket=ticket, reason=f"it did not end within {GENTLE_S:g} s, and was killed"))
            else:
                continue
            ray.kill(agent.actor)
            del self._agents[ticket]
        return found

    def _look(self) -> Seen | None:
        """None while whoever looks is not there."""
        names = [name for name in self._placements if name not in self._leaving]
        try:
            nodes, placements = self._watch(names)
        except (RayError, TimeoutError) as error:
            sys.stderr.write(f"nobody looks at the cluster: {error}\n")
            return None
        return msgspec.convert({"type": "Seen", "nodes": nodes, "placements": placements}, Seen)

    def _watch(self, names: list[str]) -> Any:  # Any: as a Watcher answers
        if self._watcher is None:
            return Watcher().look(names)
        return ray.get(self._watcher.look.remote(names), timeout=LOOK_TIMEOUT_S)


def _outcome(ticket: str, agent: _Agent) -> AgentEnded:
    try:
        code, last, is_missing = ray.get(agent.ended)
    except RayError as error:
        return AgentEnded(ticket=ticket, reason=_last_line(error))
    return AgentEnded(ticket=ticket, reason=last, exit_code=code, lacks_package=is_missing)


def _last_line(error: Exception) -> str:
    """Where Ray says what it is; a traceback of another process may stand above."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _end_anyway(after_s: float) -> None:
    """Whatever Ray waits for: the gateway is gone, and nobody else ends this process."""
    timer = threading.Timer(after_s, os._exit, [1])
    timer.daemon = True
    timer.start()


def main() -> None:
    """One life of the driver."""
    os.setpgid(0, 0)  # Ctrl-C is for the gateway alone
    output = os.dup(1)
    os.dup2(2, 1)  # what Ray prints is no message
    line = sys.stdin.buffer.raw.readline() if hasattr(sys.stdin.buffer, "raw") else b""
    order = msgspec.json.decode(line, type=Connect)
    found = connect(order.address)
    if isinstance(found, Refused):
        os.write(output, as_line(found))
        return
    for number in (signal.SIGTERM, signal.SIGINT):  # `ray job stop` sends it to all of a job; the gateway drains
        signal.signal(number, signal.SIG_IGN)
    driver = Driver(output, is_client=ray.util.client.ray.is_connected())
    try:
        driver.say(found)
        driver.run()
    finally:
        _end_anyway(FAREWELL_S + GENTLE_S)
        driver.end_all()
        ray.shutdown()


if __name__ == "__main__":
    main()
