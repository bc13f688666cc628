"""The start of a node agent by `phalanx serve --node-rank N`: what it has to know, found out on this machine."""

import asyncio
from collections.abc import Mapping

from app.errors import FatalError
from app.logs import configure, get_logger
from app.ranks.agreement import agreed_settings, node_facts
from app.ranks.devices import Allotment, allot
from app.ranks.model import inspect_model
from app.settings.checks import check_environment
from app.settings.declaration import BUILT_IN_MODEL, Settings, label
from app.settings.folders import check_folders, find_home, log_folder, socket_folder
from app.settings.inheritance import inherited
from engines.agent import agent
from engines.agent.spec import AgentSpec
from engines.contract.spec import EngineKind
from engines.host.network import network_variables, own_address_towards
from phalanx import __version__

logger = get_logger("agent")
LEAVE_MARGIN_S = 5.0


def run(settings: Settings, variables: Mapping[str, str]) -> int:
    """Serves node 0 until a signal comes. Returns the exit code: 2 where node 0 refuses it or does not answer.

    Raises FatalError, before anything has started, for what this machine cannot fulfil.
    """
    check_environment(settings)
    environ = inherited(variables)
    environ |= find_home(environ).variables
    check_folders(settings, environ)
    allotment = allot(settings, environ)
    configure(settings.log_format, settings.log_level, with_prompts=settings.log_prompts)
    for warning in allotment.warnings:
        logger.warning("device_warning", reason=warning)
    return agent.run(_spec(settings, environ, allotment), environ)


def _spec(settings: Settings, environ: Mapping[str, str], allotment: Allotment) -> AgentSpec:
    try:
        address = own_address_towards(settings.master_addr)
        network = network_variables(environ, settings.master_addr)
    except OSError as error:
        raise FatalError(
            f"{label('master_addr')} is {settings.master_addr}: there is no way there ({error})", 2
        ) from None
    return AgentSpec(
        node=settings.node_rank,
        endpoint=settings.node_endpoint,
        keys_file=str(settings.node_keys_file.absolute()) if settings.node_keys_file else None,
        version=__version__,
        agreed=dict(agreed_settings(settings, allotment.device)),
        facts=node_facts(allotment),
        model=asyncio.run(local_model(settings, environ)),
        log_dir=str(log_folder(settings, environ)),
        socket_dir=str(socket_folder()),
        address=address,
        network=network,
        meeting_timeout_s=settings.node_timeout_s,
        leave_timeout_s=settings.drain_timeout_s + settings.stop_timeout_s + LEAVE_MARGIN_S,
    )


async def local_model(settings: Settings, environ: Mapping[str, str]) -> str | None:
    """Where the model is on this machine. Raises FatalError where it is not."""
    if settings.engine is EngineKind.SIMULATED:
        return None
    facts = await inspect_model(settings.model or BUILT_IN_MODEL, settings.revision, environ)
    return facts.model
