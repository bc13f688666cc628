"""The actor in a bundle: it starts a node agent in a process of its own, and holds its lifeline.

Ray carries this class over by value, since it runs where Phalanx may not be installed: it uses nothing of Phalanx.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable

import ray

MODULE = "app.placed_node"
GENTLE_S = 10.0  # for an agent to end by itself: it may be stopped
LONGEST_REST_S = 5.0  # of the actor, once its agent has ended: nobody may be left who could end it


class AgentHolder:
    """Holds one agent. Its methods run in threads of the actor's."""

    def __init__(self) -> None:
        self._lifeline: int | None = None
        self._agent: subprocess.Popen[bytes] | None = None

    def hold(self, told: str) -> tuple[int, str, bool]:
        """Until the agent has ended: its exit code, what it said last, and whether Phalanx is missing."""
        lifeline_end, self._lifeline = os.pipe()
        agent = self._agent = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE],
            stdin=lifeline_end,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            process_group=0,
        )
        os.close(lifeline_end)
        os.write(self._lifeline, f"{told}\n{self._bundle()}\n".encode())
        said = ""
        for line in agent.stderr or ():
            if line.strip() and not line.startswith(b"{"):  # an event is for the log; a sentence comes last
                said = line.decode("utf-8", "replace").strip()
            sys.stderr.buffer.write(line)  # Ray keeps it among the logs of the node
            sys.stderr.buffer.flush()
        code = agent.wait()
        _later(LONGEST_REST_S, lambda: os._exit(0))
        is_missing = "No module named" in said and ("'app" in said or " app" in said)
        if is_missing:
            said += f" ({sys.executable})"
        return code, said or f"its process ended with exit code {code}", is_missing

    def let_go(self) -> None:
        """The agent ends its ranks, and itself; its ranks end, too, when it has to be killed. May be called twice."""
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            os.close(lifeline)
        if self._agent is not None:
            _later(GENTLE_S, self._agent.kill)  # which does nothing to one that has ended

    def _bundle(self) -> str:
        context = ray.get_runtime_context()
        return json.dumps(
            {
                "ray_node_id": context.get_node_id(),
                "gpus": context.get_accelerator_ids().get("GPU", []),
                "cpus": max(1, int(context.get_assigned_resources().get("CPU", 1))),
            }
        )


def _later(seconds: float, act: Callable[[], object]) -> None:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
