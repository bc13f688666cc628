"""What a type cannot say of settings: which contradict one another, and which the machine cannot fulfil."""

import errno
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from app.journal.place import url_problem
from app.keys.store import KeysFile, KeysFileError
from app.settings.declaration import (
    EngineSettings,
    ModelSettings,
    RankSettings,
    Settings,
    SettingsError,
    flag,
    label,
    spellings,
)
from app.settings.folders import socket_folder
from app.settings.node_checks import node_contradictions, node_problems
from app.settings.ray_checks import ray_contradictions, ray_problems
from app.settings.sharing_checks import sharing_contradictions
from engines.contract.spec import EngineKind, ExecutorKind

PATH_BEGINNINGS = ("/", "./", "../", "~")
MODEL_FILES = ("config.json", "params.json")  # of transformers and of Mistral
DECIDED_BY_US = "data_parallel_"  # the rest of these arguments follow from dp_size and the rank


def contradictions(settings: Settings) -> Iterator[str]:
    """A sentence for everything that does not go together. No I/O."""
    yield from node_contradictions(settings)
    yield from ray_contradictions(settings)
    yield from sharing_contradictions(settings)
    if not (settings.insecure or settings.api_keys_file or is_loopback(settings.host) or settings.node_rank):
        yield (
            f"{label('host')} is {settings.host}, which other machines may reach, and nobody is asked for an API key: "
            f"name a file of keys with {label('api_keys_file')}, which `phalanx api-keys create` makes, or say "
            f"{label('insecure')} where a firewall or a proxy keeps others out"
        )
    if settings.require_model and settings.model is None and settings.engine is EngineKind.VLLM:
        yield f"{label('model')} is missing: name a model of the hub or a folder"
    if settings.executor is ExecutorKind.EXTERNAL_LAUNCHER and settings.engine is not EngineKind.VLLM:
        yield (
            f"{label('executor')} is {settings.executor}, and {label('engine')} is {settings.engine}, which has no "
            "workers to start: leave one of them out"
        )
    yield from _journal_contradictions(settings)
    if settings.default_timeout_s is not None and settings.default_timeout_s > settings.max_timeout_s:
        yield (
            f"{label('default_timeout_s')} is {settings.default_timeout_s:g}: it must be at most "
            f"{label('max_timeout_s')}, {settings.max_timeout_s:g}"
        )
    for name in settings.engine_args:
        yield from _said_twice(settings, name, f"{name} in {flag('engine_args')}")
    for argument in settings.extra_args:
        if argument.startswith("-") and not argument[1:2].isdigit():
            yield from _said_twice(settings, argument_name(argument), f"{argument} after --")


def _journal_contradictions(settings: Settings) -> Iterator[str]:
    if settings.journal_url is None:
        return
    if settings.data_dir is not None:
        yield f"{label('journal_url')} and {label('data_dir')} each name a place for the journal: keep one of them"
    if problem := url_problem(settings.journal_url):
        yield f"{label('journal_url')}: {problem}"  # without the value: it may hold a password


def argument_name(argument: str) -> str:
    """The engine's name for a flag: --no-enforce-eager and --enforce-eager=x are both enforce_eager."""
    return argument.partition("=")[0].lstrip("-").replace("-", "_").removeprefix("no_")


def _said_twice(settings: Settings, name: str, where: str) -> Iterator[str]:
    """A sentence if an engine argument has a setting of its own that has a value, or that always has one."""
    setting = _settings_by_argument().get(name)
    if setting is None and name.startswith(DECIDED_BY_US):
        yield f"{where} is Phalanx's own to set: leave it out and say {label('dp_size')}"
    elif setting is not None and setting not in EngineSettings.model_fields:
        yield f"{where} has a setting of its own: say {label(setting)} instead"
    elif setting is not None and getattr(settings, setting) is not None:
        yield f"{where} and {label(setting)} say the same thing: keep one of them"


def _settings_by_argument() -> dict[str, str]:
    """Which setting an engine argument is, by all its spellings."""
    names = [name for section in (ModelSettings, RankSettings, EngineSettings) for name in section.model_fields]
    return {argument_name(spelling): name for name in names for spelling in spellings(name)}


def check_environment(settings: Settings) -> None:
    """Whether this machine has what the settings name: the model's folder, the address, the API keys, the logs' folder;
    and a folder for sockets. Raises SettingsError.
    """
    socket_folder()
    problems = [
        *_model_problems(settings.model),
        *([] if settings.node_rank else _address_problems(settings.host, settings.port)),  # only node 0 has clients
        *node_problems(settings),
        *ray_problems(settings),
        *_keys_problems(settings.api_keys_file),
        *_log_folder_problems(settings.log_dir),
    ]
    if problems:
        raise SettingsError("\n".join(problems))


def _model_problems(model: str | None) -> Iterator[str]:
    """Only for what is a path: a hub name is looked up by whoever loads it."""
    if model is None:
        return
    path = Path(model)
    try:
        is_there, is_folder = path.exists(), path.is_dir()
        is_model = is_folder and any((path / name).is_file() for name in MODEL_FILES)
    except OSError as error:  # of an unreadable folder above it, or of a name that no file can have
        yield f"{label('model')} is {model[:200]}: it cannot be looked at ({error.strerror}); correct the path"
        return
    if not is_there and model.startswith(PATH_BEGINNINGS):
        yield f"{label('model')} is {model}: there is no such folder; correct the path, or name a model of the hub"
    elif is_folder and not is_model:
        yield f"{label('model')} is {model}: the folder holds no {MODEL_FILES[0]}; name the model's own folder"


def _address_problems(host: str, port: int) -> Iterator[str]:
    """Whether one can listen there now, as the server will."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:  # UnicodeError: a label that no name can have
        yield f"{label('host')} is {host}: it cannot be resolved ({error}); name an address of this machine"
        return
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind(address)
        except OSError as error:
            yield _address_problem(host, port, error)


def _log_folder_problems(folder: Path | None) -> Iterator[str]:
    """A rank that cannot start says why in its log: a folder that was named has to take it."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK | os.X_OK) else "no permission to write"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        yield f"{label('log_dir')} is {folder}: no logs can be written there ({reason}); name another folder"


def _keys_problems(path: Path | None) -> Iterator[str]:
    if path is None:
        return
    try:
        KeysFile(path).read()
    except KeysFileError as error:
        yield f"{label('api_keys_file')}: {error}"


def is_loopback(host: str) -> bool:
    """Whether a server bound to it can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _address_problem(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{label('port')} is {port}: another process listens there; stop it or choose another port"
    if error.errno == errno.EACCES:
        return f"{label('port')} is {port}: this user may not listen there; choose a port above 1023"
    return f"{label('host')} is {host}: cannot listen there ({error}); name an address of this machine"
