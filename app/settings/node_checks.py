"""What of the nodes' settings contradicts itself, or this machine."""

import errno
import socket
from collections.abc import Iterator

from app.settings.declaration import Settings, flag, label
from app.settings.nodes import NodeSettings
from engines.contract.node_keys import NodeKeysError, read_node_keys


def node_contradictions(settings: Settings) -> Iterator[str]:
    """A sentence for everything that does not go together. No I/O."""
    if settings.launcher == "ray":
        return  # which has checks of its own
    size, rank = settings.node_size, settings.node_rank
    if rank >= size:
        yield f"{label('node_rank')} is {rank}: with {flag('node_size')} {size} it must be 0 to {size - 1}"
    if size == 1:
        for name in ("master_addr", "master_port", "node_keys_file"):
            if getattr(settings, name) != NodeSettings.model_fields[name].default:
                yield f"{label(name)} is set, and {label('node_size')} is 1: say how many nodes there are"
    else:
        yield from _meeting_contradictions(settings, size)


def _meeting_contradictions(settings: Settings, size: int) -> Iterator[str]:
    dp_size = settings.dp_size
    if dp_size is None:
        yield f"{label('dp_size')} is missing: say how many ranks the {size} nodes have together"
    elif dp_size % size:
        yield f"{label('dp_size')} is {dp_size}: it must be divisible by {flag('node_size')}, {size}"
    for name in ("master_addr", "master_port"):
        if not getattr(settings, name):
            yield f"{label(name)} is missing: all {size} nodes meet at node 0's address and port"
    if settings.node_keys_file is None and not settings.insecure:
        yield (
            f"{label('node_keys_file')} is missing: make one with `phalanx node-keys create FILE` and copy it to every "
            f"node, or say {flag('insecure')} where nobody else reaches the network between them"
        )


def node_problems(settings: Settings) -> Iterator[str]:
    """A sentence for everything that this machine cannot fulfil."""
    if settings.node_size == 1:
        return
    if settings.node_keys_file is not None:
        try:
            read_node_keys(settings.node_keys_file)
        except NodeKeysError as error:
            yield f"{label('node_keys_file')}: {error}"
    where = f"{label('master_addr')} is {settings.master_addr}"
    try:
        family, _, _, _, target = socket.getaddrinfo(
            settings.master_addr, settings.master_port, type=socket.SOCK_STREAM
        )[0]
    except OSError as error:
        yield f"{where}: it cannot be resolved ({error.strerror}); name node 0's address"
        return
    if settings.node_rank == 0:
        yield from _listening_problems(where, settings.master_port, family, target)
    else:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(target)  # sends nothing
            except OSError as error:
                yield f"{where}: there is no way there from this machine ({error.strerror}); name node 0's address"


def _listening_problems(where: str, port: int, family: int, target: tuple[object, ...]) -> Iterator[str]:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(target)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                yield f"{where}: this machine, node 0, has no such address; name one of its own"
            elif error.errno == errno.EADDRINUSE:
                yield f"{label('master_port')} is {port}: another process listens there; stop it or choose another port"
            else:
                yield f"{where}: nobody can listen there at port {port} ({error.strerror}); name another one"
