"""What is wrong with an agent where Ray has started it: with the node, or with what Ray has given it there."""

from collections.abc import Iterable, Mapping

from app.ranks.hosts.ray.messages import AgentEnded
from app.ranks.hosts.ray.placement import Placement
from app.settings.declaration import label
from engines.contract.node_protocol import NodeFacts
from phalanx import __version__

CONFIGURATION = 2  # exit code of an agent that somebody has to see to


def misplacement(placements: Iterable[Placement], placement: Placement, rank: int, facts: NodeFacts) -> str | None:
    """What is wrong with where the agent of a rank has been started; None where nothing is."""
    agent = placement.agent_of(rank)
    if agent is None or facts.ray_node_id != agent.node_id:
        return f"rank {rank} is on Ray node {facts.ray_node_id}, and its bundle on another"
    if len(set(facts.gpus)) != placement.gpus:
        given = ", ".join(facts.gpus) or "none"
        return f"rank {rank} has been given these GPUs: {given}; it needs {placement.gpus}"
    for other in placements:
        for number in other.ranks:
            its = other.agent_of(number)
            if number != rank and its is not None and its.is_heard and its.node_id == agent.node_id:
                shared = sorted({*its.gpus} & {*facts.gpus})
                if shared:
                    return f"ranks {number} and {rank} have both been given GPU {', '.join(shared)}"
    return None


def disagreement(placement: Placement, rank: int, engines: Mapping[str, str]) -> str | None:
    """What the agents of one group have in different versions; None where they agree."""
    for other in placement.ranks:
        agent = placement.agent_of(other)
        if other == rank or agent is None or not agent.is_heard:
            continue
        for name in sorted({*engines, *agent.engines}):
            theirs, its = agent.engines.get(name), engines.get(name)
            if its != theirs:
                where = f"{its} where rank {rank} is, and {theirs} where rank {other} is"
                return f"{name} is {where}: install the same on both"
    return None


def what_is_to_be_mended(message: AgentEnded, node: str) -> str | None:
    """Why no start of an agent there can succeed before somebody has seen to it; None where one may."""
    if message.is_refused:
        return f"Ray does not start what {label('ray_runtime_env')} or {label('ray_resources')} says: {message.reason}"
    if message.lacks_package:
        return (
            f"Phalanx {__version__} is not installed for Ray's workers on node {node}: {message.reason}; install "
            f"the same there as here, or name an environment with {label('ray_runtime_env')}"
        )
    if message.exit_code == CONFIGURATION:
        return f"on Ray node {node}: {message.reason.removeprefix('phalanx: ')}"
    return None
