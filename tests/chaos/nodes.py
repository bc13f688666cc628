"""Plays rounds on a service over several nodes, each in a network namespace: their links are cut, and agents struck."""

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence

from engines.contract.node_protocol import SILENCE_S
from engines.host.runtime import sweep
from tests.chaos.checks import SETTLED_S, Broken, Footprint, left_in_shared_memory, runtimes
from tests.chaos.nodes_plan import draw_on_nodes
from tests.chaos.plan import Blow, PlannedBlow, Round
from tests.chaos.play import FLAGS, Arena
from tests.netns.network import Network
from tests.nodes import Agent, Cluster
from tests.service import Json, Service, until

GONE_S = 10.0  # for an agent to be rid of its ranks when its gateway is gone
BY_AN_ITEM = ("died", "stalled")  # a rank that is lost so makes suspects of its items
STALL_TIMEOUT = "5s"  # ranks of a node that has been silent for 3 s are not judged, so this must be longer
FIRST_SUBNET = 20  # 10.213.20.0/24; tests/netns has another one


class Nodes(Arena):
    """A gateway, agents and the links between them. Agents live on when their gateway ends, and meet the next one."""

    def __init__(self, number: int, nodes: int, ranks_per_node: int, *, is_moe: bool) -> None:
        super().__init__(is_moe=is_moe)
        self._nodes = nodes
        self._ranks = nodes * ranks_per_node
        self._around = contextlib.ExitStack()
        self._network = self._around.enter_context(Network(nodes, FIRST_SUBNET + number).up())
        self._cluster = Cluster(
            *FLAGS,
            "--insecure",  # of the gateway's HTTP; the nodes have keys
            *("--stall-timeout-s", STALL_TIMEOUT),
            node_size=nodes,
            dp_size=self._ranks,
            master=self._network.address(0),
            enter=self._network.enter,
            **self._engine,
        )
        self._around.enter_context(self._cluster)
        self._agents: dict[int, Agent] = {}
        self._agents_before: Sequence[Footprint] = ()
        self._relaunching = {node: threading.Lock() for node in range(1, nodes)}
        self._past_runtimes: set[str] = set()
        self._past_log = ""  # of the gateway before this one, and of agents that were struck in this round
        self._losses_seen = 0

    def draw(self, seed: int, number: int) -> Round:
        return draw_on_nodes(seed, number, self._nodes, self._ranks)

    def play(self, round_: Round) -> None:
        self._past_log = ""
        super().play(round_)

    def close(self) -> None:
        super().close()
        for agent in self._agents.values():
            agent.process.send_signal(signal.SIGTERM)
            if agent.wait() != 0:
                raise Broken(f"an agent ended with exit code {agent.process.returncode}")
            agent.check_nothing_left()

    def abandon(self) -> None:
        super().abandon()
        self._around.close()

    def log(self) -> str:
        agents = "".join(f"\n--- agent {node}\n{agent.log}" for node, agent in self._agents.items())
        return f"{self._past_log}\n--- gateway\n{super().log()}{agents}"

    # -- what an arena is made of

    def _launch(self) -> Service:
        for node in range(1, self._nodes):
            if node not in self._agents:
                self._agents[node] = self._cluster.start_agent(node)
        self._service = self._cluster.start_gateway("--host", self._network.address(0), "--data-dir", str(self._data))
        self._losses_seen = 0
        return self._service

    def _wait_whole(self, service: Service) -> None:
        until(self._is_whole, "not all nodes serve")

    def _measure(self) -> Sequence[Footprint]:
        parties = [*([self._service] if self._service is not None else []), *self._agents.values()]
        self._past_runtimes.update(name for party in parties for name in runtimes(party))
        return [Footprint.of(party) for party in parties]

    def _ready(self, *, is_loaded: bool = False) -> Service:
        is_new = self._service is None
        service = super()._ready(is_loaded=is_loaded)
        if (
            is_new and not is_loaded
        ):  # agents are measured once: they are to stay as they were from one gateway to the next
            self._agents_before = self._agents_before or self._before[1:]
            self._before = [self._before[0], *self._agents_before]
        return service

    def _find(self, title: str) -> list[int]:
        own = self._service.titled(title) if self._service is not None else []
        return own + [pid for agent in list(self._agents.values()) for pid in agent.titled(title)]

    # -- after a round

    def _settle(self, service: Service, round_: Round) -> None:
        until(self._is_whole, "not all nodes serve again", SETTLED_S)
        super()._settle(service, round_)
        self._check_losses(service, round_)
        if left := left_in_shared_memory(self._past_runtimes):
            raise Broken(f"{left} files in shared memory are left")
        if "Traceback" in service.log or any("Traceback" in agent.log for agent in self._agents.values()):
            raise Broken("a log has a traceback")

    def _bury(self, service: Service, *, was_killed: bool) -> None:
        """The agents are rid of their ranks, and the next gateway has them again."""
        self._past_runtimes.update(runtimes(service))
        self._past_log += f"\n--- the gateway before\n{service.log}"
        for node, agent in self._agents.items():
            until(lambda agent=agent: not agent.ranks(), f"node {node} has ranks without a gateway", GONE_S)  # type: ignore[misc]
        super()._bury(service, was_killed=was_killed)
        self._cluster.gateways.remove(service)

    def _is_whole(self) -> bool:
        """Whether all nodes have joined, and all ranks are ready."""
        self._revive()
        service = self._service
        if service is None or service.health()["status"] != "ok":
            return False
        found: list[Json] = service.client.get("/v1/nodes").json()["data"]
        return [node["pid"] for node in found[1:] if node["state"] == "joined"] == [
            agent.process.pid for agent in self._agents.values()
        ]

    def _revive(self) -> None:
        """As systemd would: an agent that comes back before its gateway has noticed that it was gone is refused."""
        for node, agent in self._agents.items():
            if agent.process.poll() is None:
                continue
            if agent.process.returncode != 2 or " already: choose another" not in agent.log:
                raise Broken(f"the agent of node {node} has ended with exit code {agent.process.returncode}")
            self.counts["agents refused at first"] += 1
            self._replace(node, agent)

    def _check_losses(self, service: Service, round_: Round) -> None:
        """No item is suspected when a node or an operator was to blame."""
        losses = service.facts("rank_lost")
        new, self._losses_seen = losses[self._losses_seen :], len(losses)
        self.counts += Counter(f"lost: {loss['kind']}" for loss in new)
        suspicious = [loss for loss in new if loss["kind"] in BY_AN_ITEM]
        if suspicious and not round_.may_raise_suspicion:
            raise Broken(f"items are suspected: {suspicious}")

    # -- blows

    def _deal(self, service: Service, blow: PlannedBlow) -> None:
        match blow.what:
            case Blow.CUT_LINK:
                length = "longer" if blow.lasts_s > SILENCE_S else "shorter"
                self.counts[f"cut_link, {length} than {SILENCE_S:g} s"] += 1
                self._network.cut(blow.node, blow.ways)
                time.sleep(blow.lasts_s)
                self._network.mend(blow.node)
            case Blow.KILL_AGENT | Blow.TERM_AGENT:
                with self._relaunching[blow.node]:
                    self._end_agent(blow.node, signal.SIGKILL if blow.what is Blow.KILL_AGENT else signal.SIGTERM)
                    time.sleep(blow.lasts_s)
                    self._agents[blow.node] = self._cluster.start_agent(blow.node)
            case Blow.STOP_AGENT:
                pid = self._agents[blow.node].process.pid
                os.kill(pid, signal.SIGSTOP)
                time.sleep(blow.lasts_s)
                os.kill(pid, signal.SIGCONT)
            case _:
                super()._deal(service, blow)

    def _end_agent(self, node: int, number: signal.Signals) -> None:
        agent = self._agents[node]
        until(lambda: agent.facts("gateway_dialled"), "an agent does not begin")  # from then on it hears signals
        self._past_runtimes.update(runtimes(agent))
        agent.process.send_signal(number)
        code = agent.wait()
        if number is signal.SIGTERM and code != 0:
            raise Broken(f"the agent of node {node} ended with exit code {code}")
        until(lambda: not agent.processes(), f"processes are left on node {node}", GONE_S)
        if number is signal.SIGKILL:
            sweep(agent.folder)  # as for a gateway that was killed
        agent.check_nothing_left()
        self._bury_agent(node, agent)

    def _replace(self, node: int, agent: Agent) -> None:
        agent.check_nothing_left()
        self._bury_agent(node, agent)
        self._agents[node] = self._cluster.start_agent(node)

    def _bury_agent(self, node: int, agent: Agent) -> None:
        self._past_log += f"\n--- agent {node} before\n{agent.log}"
        agent.discard()
        self._cluster.agents.remove(agent)
