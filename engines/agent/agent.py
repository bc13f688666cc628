"""A node agent: the host of a gateway's ranks on another machine.

It dials its gateway, does as it is told, and ends its ranks when the gateway is gone. Then it dials again, for ever:
only the first meeting has a deadline. One that was placed does not: whoever placed it starts another one.
"""

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import setproctitle
import uvloop
import zmq

from engines import tasks
from engines.agent.link import GatewayLink
from engines.agent.ranks import AgentRanks
from engines.agent.spec import AgentSpec
from engines.contract.node_keys import read_node_keys
from engines.contract.node_protocol import (
    BEAT_S,
    NODE_PROTOCOL_VERSION,
    SILENCE_S,
    AgentBeat,
    Expelled,
    Farewell,
    GatewayBeat,
    Join,
    Leaving,
    Refused,
    ToAgent,
    Welcome,
)
from engines.host.machine import Machine
from engines.host.strays import adopt_orphans
from engines.logs import get_logger, loop_failure_logger, write_stderr
from engines.signals import ending_signals

logger = get_logger("agent")
ANSWER_TIMEOUT_S = 5.0  # for a gateway that listens to say yes or no
PAUSE_S = 1.0  # between two attempts
LIFELINE = 0  # standard input


class Ending(Enum):
    """Why the agent is about to end."""

    ASKED = "asked"
    REFUSED = "refused"
    UNANSWERED = "unanswered"
    FAILED = "failed"
    LEFT = "left"  # it was placed, and its gateway, or what held its standard input, is gone


EXIT_CODES = {Ending.ASKED: 0, Ending.FAILED: 1, Ending.REFUSED: 2, Ending.UNANSWERED: 2, Ending.LEFT: 0}


def run(spec: AgentSpec, environ: Mapping[str, str]) -> int:
    """Serves a gateway, and the next one, until a signal comes. Returns the exit code."""
    setproctitle.setproctitle(f"phalanx-agent {spec.node}")
    adopt_orphans()  # of guardians that are killed
    return uvloop.run(Agent(spec, environ).run())


class Agent:
    """One node's agent."""

    def __init__(self, spec: AgentSpec, environ: Mapping[str, str]) -> None:
        self._spec = spec
        self._keys = read_node_keys(Path(spec.keys_file)) if spec.keys_file else None
        self._machine = Machine(environ, Path(spec.log_dir), Path(spec.socket_dir), spec.address)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._link: GatewayLink | None = None
        self._ranks: AgentRanks | None = None  # while a gateway has welcomed this agent
        self._heard_at = 0.0
        self._has_met = False
        self._signals = 0
        self._ending: Ending | None = None
        self._last_word = ""  # for the operator
        self._over = asyncio.Event()  # this life with a gateway, or the wait for one

    async def run(self) -> int:
        """Until it was asked to end, or cannot go on."""
        asyncio.get_running_loop().set_exception_handler(loop_failure_logger("agent"))
        began = time.monotonic()
        with ending_signals(self._on_signal):
            logger.info("gateway_dialled", node=self._spec.node, endpoint=self._spec.endpoint, pid=os.getpid())
            if self._spec.is_placed:
                asyncio.get_running_loop().add_reader(LIFELINE, self._look_at_lifeline)
            try:
                while self._ending is None:
                    await self._live()
                    if self._ending is None:
                        self._check_first_meeting(time.monotonic() - began)
                    if self._spec.is_placed and self._has_met:
                        self._end(Ending.LEFT)
                    if self._ending is None:
                        await self._pause()
            finally:
                self._machine.close()
                self._context.destroy(linger=500)
        logger.info("agent_ended", reason=self._ending and self._ending.value)
        if self._last_word:
            write_stderr(f"phalanx: {self._last_word}\n")
        return EXIT_CODES[self._ending]

    # -- one life with a gateway

    async def _live(self) -> None:
        """From a call to the end of all that came of it."""
        self._over.clear()
        identity = f"agent-{self._spec.node}.{secrets.token_hex(4)}"
        link = self._link = GatewayLink(
            self._context, self._spec.endpoint, identity, self._keys, self._hear, self._on_broken
        )
        ranks = AgentRanks(self._spec, self._machine, link.send, self._fail)
        self._heard_at = time.monotonic()
        link.send(
            Join(
                protocol=NODE_PROTOCOL_VERSION,
                version=self._spec.version,
                node=self._spec.node,
                agreed=self._spec.agreed,
                facts=self._spec.facts,
            )
        )
        beating = tasks.start(self._beat(link, ranks), "beat", self._fail)
        try:
            self._waiting_ranks = ranks
            await self._over.wait()
        finally:
            await tasks.end(beating)
            self._ranks = None
            link.close()
            await ranks.end()

    async def _beat(self, link: GatewayLink, ranks: AgentRanks) -> None:
        while True:
            silence_s = time.monotonic() - self._heard_at
            if silence_s > (SILENCE_S if self._ranks else ANSWER_TIMEOUT_S):
                self._on_broken(f"it has been silent for {silence_s:.0f} s")
            if self._ranks is not None:
                link.send(AgentBeat())
                ranks.report_logs()
            await asyncio.sleep(BEAT_S)

    def _hear(self, message: ToAgent) -> None:
        self._heard_at = time.monotonic()
        match message:
            case Welcome():
                self._has_met = True
                self._ranks = self._waiting_ranks
                if self._link is not None:
                    self._link.epoch = message.epoch
                logger.info("gateway_joined", node=self._spec.node, endpoint=self._spec.endpoint)
                if self._signals:
                    self._leave()
            case Refused():
                if message.is_final:
                    self._end(Ending.REFUSED, f"node 0 refuses this node: {message.reason}")
                self._over.set()
            case GatewayBeat():
                pass
            case Expelled():
                self._on_broken("it has taken this node for lost")
            case Farewell():
                self._end(Ending.ASKED)
            case _:
                if self._ranks is not None and self._link is not None and message.epoch == self._link.epoch:
                    self._ranks.obey(message)

    def _on_broken(self, reason: str) -> None:
        if not self._over.is_set():
            if self._ranks is not None:
                logger.error("gateway_lost", endpoint=self._spec.endpoint, reason=reason, ranks=self._ranks.count)
            self._over.set()

    def _check_first_meeting(self, waited_s: float) -> None:
        spec = self._spec
        if not self._has_met and waited_s > spec.meeting_timeout_s:
            self._end(
                Ending.UNANSWERED,
                f"nobody has answered at {spec.endpoint} within {waited_s:.0f} s (--node-timeout-s): start node 0 "
                "there, and see that it has the same node keys and that no firewall is between",
            )

    async def _pause(self) -> None:
        self._over.clear()
        await tasks.comes_within(self._over, PAUSE_S)

    # -- the end

    def _look_at_lifeline(self) -> None:
        if not os.read(LIFELINE, 4096):
            asyncio.get_running_loop().remove_reader(LIFELINE)
            self._end(Ending.LEFT)

    def _on_signal(self, number: signal.Signals) -> None:
        """The first asks the gateway to drain this node's ranks; the second ends them."""
        self._signals += 1
        logger.info("signal", name=number.name)
        if self._ranks is None or self._signals > 1:
            self._end(Ending.ASKED)
        else:
            self._leave()

    def _leave(self) -> None:
        if self._link is not None:
            self._link.send(Leaving())
        asyncio.get_running_loop().call_later(self._spec.leave_timeout_s, self._end, Ending.ASKED)

    def _fail(self, what: str, error: BaseException) -> None:
        self._end(Ending.FAILED, f"{what} failed: {type(error).__name__}")

    def _end(self, why: Ending, last_word: str = "") -> None:
        if self._ending is None:
            self._ending, self._last_word = why, last_word
        self._over.set()
