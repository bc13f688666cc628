"""The process of a node agent that Ray has placed: `python -P -m app.placed_node`.

Its standard input tells it what it is, and keeps it alive: it ends when that does.
"""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import msgspec

from app.errors import FatalError
from app.logs import configure
from app.node import LEAVE_MARGIN_S, local_model
from app.ranks.agreement import installed_engines, node_facts
from app.ranks.devices import Allotment
from app.ranks.hosts.ray.messages import Bundle, PlacedAgent
from app.settings.declaration import Settings, SettingsError
from app.settings.folders import check_folders, find_home, log_folder, socket_folder
from app.settings.inheritance import inherited
from engines.agent import agent
from engines.agent.spec import AgentSpec
from engines.contract.node_keys import write_node_keys
from engines.contract.spec import EngineKind, Share
from engines.host.network import network_variables, own_address_towards
from engines.host.runtime import Runtime
from engines.logs import write_stderr
from phalanx import __version__

THREADS = "OMP_NUM_THREADS"
KEYS_FOLDER = "phalanx.keys-"
KEYS_FILE = "keys.json"
CORES_AS_THEY_COME = "nobind"  # Ray deals out how many cores, and not which


def main() -> NoReturn:
    """Serves its gateway to the end."""
    try:
        with open(0, "rb", buffering=0, closefd=False) as lines:
            told = msgspec.json.decode(lines.readline(), type=PlacedAgent)
            bundle = msgspec.json.decode(lines.readline(), type=Bundle)
        code = run(told, bundle, os.environ)
    except FatalError as error:
        write_stderr(f"phalanx: {error}\n")
        code = error.exit_code
    except msgspec.DecodeError as error:
        write_stderr(f"phalanx: the gateway is of another version: install the same Phalanx on all nodes ({error})\n")
        code = 2
    sys.exit(code)


def run(told: PlacedAgent, bundle: Bundle, variables: Mapping[str, str]) -> int:
    """The agent's exit code. Raises FatalError, before anything has started, for what this machine cannot fulfil."""
    settings = Settings(**told.settings)
    environ = inherited(variables)
    environ |= find_home(environ).variables
    environ.pop(THREADS, None)  # Ray has set it to the bundle's cores, for one process
    if told.device == "cpu" and settings.engine is EngineKind.VLLM:
        environ[THREADS] = str(max(1, bundle.cpus // settings.tp_size))
    check_folders(settings, environ)
    configure("json", settings.log_level, with_prompts=settings.log_prompts)
    private = Runtime(socket_folder(), KEYS_FOLDER)
    try:
        keys_file = private.path / KEYS_FILE
        write_node_keys(told.keys, keys_file)
        return agent.run(_spec(told, bundle, settings, environ, keys_file), environ)
    finally:
        private.remove()


def _spec(
    told: PlacedAgent, bundle: Bundle, settings: Settings, environ: Mapping[str, str], keys_file: Path
) -> AgentSpec:
    gateway = told.endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        address, network = own_address_towards(gateway), network_variables(environ, gateway)
    except OSError as error:
        raise SettingsError(f"there is no way from here to the gateway at {gateway} ({error})") from None
    model = asyncio.run(local_model(settings, environ))
    return AgentSpec(
        node=told.node,
        endpoint=told.endpoint,
        keys_file=str(keys_file),
        version=__version__,
        agreed=dict(installed_engines()),
        facts=msgspec.structs.replace(
            node_facts(Allotment(told.device, (_share(told, bundle, settings),))),
            ray_node_id=bundle.ray_node_id,
            ticket=told.ticket,
        ),
        model=model,
        log_dir=str(log_folder(settings, environ)),
        socket_dir=str(socket_folder()),
        address=address,
        network=network,
        meeting_timeout_s=settings.node_timeout_s,
        leave_timeout_s=settings.drain_timeout_s + settings.stop_timeout_s + LEAVE_MARGIN_S,
        is_placed=True,
    )


def _share(told: PlacedAgent, bundle: Bundle, settings: Settings) -> Share:
    if told.device == "cuda":
        return Share(gpus=tuple(bundle.gpus))
    return Share() if settings.engine is EngineKind.SIMULATED else Share(cores=CORES_AS_THEY_COME)


if __name__ == "__main__":
    main()
