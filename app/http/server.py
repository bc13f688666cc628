"""The process: uvicorn around the application, signals, and the order in which everything ends."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import setproctitle
import uvicorn
import uvloop

from app.errors import FatalError
from app.factory import create_app
from app.gateway import Gateway
from app.http import lag
from app.http.bounded_protocol import BoundedProtocol
from app.http.connections import FAREWELLS, ConnectionLimits, Connections
from app.http.descriptors import room_for
from app.logs import configure, get_logger
from app.ranks.devices import Allotment, allot
from app.settings.checks import check_environment, is_loopback
from app.settings.declaration import Settings
from app.settings.folders import check_folders, find_home
from app.settings.inheritance import inherited
from app.settings.service_links import service_links
from app.traces import Traces, open_traces
from engines import tasks
from engines.contract.exchanges import BATCH_GENERATE
from engines.contract.spec import EngineKind
from engines.host.strays import adopt_orphans
from engines.logs import loop_failure_logger, write_stderr
from engines.signals import ending_signals

GC_ALLOCATIONS = 10_000  # between two looks for garbage: 700, Python's own, take 5 % of the time of small batches
logger = get_logger("server")
BACKLOG = 4096  # connections that the kernel keeps waiting
KEEP_ALIVE_S = 75
# A client that has vanished without a word, and never reads, is gone after two minutes.
KEEP_ALIVE_TCP = {
    socket.TCP_KEEPIDLE: 60,
    socket.TCP_KEEPINTVL: 15,
    socket.TCP_KEEPCNT: 4,
    socket.TCP_USER_TIMEOUT: 120_000,
}
SERVER_STOP_TIMEOUT_S = 10
STDOUT = 1


def run(settings: Settings) -> int:
    """Serves until a signal comes. Returns the exit code: 0 after an orderly end, 2 for wrong settings, else 1.

    Raises SettingsError, before anything has started, for what this machine cannot fulfil.
    """
    check_environment(settings)
    environ = inherited(os.environ)  # read here, and handed down to whoever starts a process
    home = find_home(environ)
    environ |= home.variables
    check_folders(settings, environ)
    allotment = allot(settings, environ)
    configure(settings.log_format, settings.log_level, with_prompts=settings.log_prompts)
    traces = open_traces(settings)
    setproctitle.setproctitle("phalanx-gateway")
    adopt_orphans()  # of guardians that are killed
    if home.missing:
        logger.warning("home_replaced", folder=str(home.folder), reason=home.missing)
    for name in service_links(os.environ):
        logger.warning("variable_ignored", variable=name, reason="service_link")
    for warning in allotment.warnings:
        logger.warning("device_warning", reason=warning)
    limits = _connection_limits(settings)
    try:
        return uvloop.run(_serve(settings, environ, allotment, traces, limits))
    finally:
        traces.close()


async def _serve(
    settings: Settings, environ: Mapping[str, str], allotment: Allotment, traces: Traces, limits: ConnectionLimits
) -> int:
    asyncio.get_running_loop().set_exception_handler(loop_failure_logger("server"))
    gateway = Gateway(settings, environ, allotment, traces)
    server = _make_server(gateway, Connections(limits, gateway.metrics))
    listener = _listen(settings)
    port = listener.getsockname()[1]
    signals = _Signals()
    with ending_signals(signals.take):
        await _open(gateway)
        fail, fatal = gateway.fleet.fail, gateway.fleet.fatal
        serving = tasks.start(server.serve(sockets=[listener]), "http", fail)
        gateway.start()
        # What is there now stays: a full collection that looks at it stops the event loop for longer.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_ALLOCATIONS)
        logger.info("gateway_listening", address=_url(settings.host, port), pid=os.getpid())
        announcing = tasks.start(_announce(gateway, port), "announce", fail)
        measuring = tasks.start(lag.measure(gateway.metrics.lag), "event loop lag", fail)
        if await _until_end(fatal, signals, serving):
            await _until_second_signal(tasks.start(gateway.drain(), "drain", fail), signals)
        else:
            gateway.give_up()
        server.should_exit = True
        await asyncio.wait({serving})
        logger.info("http_closed")
        await _until_second_signal(tasks.start(gateway.stop(), "stop", fail), signals)
        await tasks.end(announcing, measuring)
        if signals.count > 1:
            await gateway.fleet.kill()
    error = fatal.result() if fatal.done() else None  # whatever failed in the end, too
    code = 0 if error is None else error.exit_code
    logger.info("stopped", exit_code=code)
    if error is not None:
        write_stderr(f"phalanx: {error}\n")  # last: the sentence that the operator needs
    return code


async def _open(gateway: Gateway) -> None:
    """Clients already wait at the port. Raises CannotOpen, with nothing left that the gateway has made."""
    try:
        await gateway.open()
    except BaseException:
        await gateway.stop()
        raise


async def _until_end(fatal: "asyncio.Future[FatalError]", signals: "_Signals", serving: "asyncio.Task[None]") -> bool:
    """Waits for a signal, or for something that the service cannot go on with. Whether it was a signal alone."""
    ends: list[asyncio.Future[Any]] = [signals.first, fatal, serving]  # Any: only their ends matter
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if serving.done() and not fatal.done():
        logger.error("http_server_ended")
        fatal.set_result(FatalError("the HTTP server ended by itself", 1))
    return not fatal.done()


async def _until_second_signal(work: asyncio.Task[None], signals: "_Signals") -> None:
    """Until the work is done, or the operator loses patience."""
    await asyncio.wait([work, signals.second], return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        logger.warning("second_signal")
    await tasks.end(work)


class _Signals:
    """The first SIGTERM or SIGINT, and the second."""

    def __init__(self) -> None:
        self.count = 0
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.second: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, number: signal.Signals) -> None:
        """One has come."""
        self.count += 1
        logger.info("signal", name=number.name)
        arrived = self.first if self.count == 1 else self.second
        if not arrived.done():
            arrived.set_result(None)


class _Server(uvicorn.Server):
    """Leaves signals to us: draining comes before closing."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Does nothing."""
        yield


def _make_server(gateway: Gateway, connections: Connections) -> uvicorn.Server:
    return _Server(
        uvicorn.Config(
            create_app(gateway),
            http=partial(BoundedProtocol, connections),  # type: ignore[arg-type]  # it calls it, and needs no class
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here depends on who the client says it is
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=SERVER_STOP_TIMEOUT_S,
        )
    )


def _connection_limits(settings: Settings) -> ConnectionLimits:
    """As many connections as asked for, or as this process may have files open."""
    most = room_for(settings.max_connections + FAREWELLS) - FAREWELLS
    if most < settings.max_connections:
        logger.warning(
            "connections_limited",
            asked=settings.max_connections,
            accepted=max(1, most),
        )
    return ConnectionLimits(max(1, most), settings.head_timeout_s, settings.body_timeout_s, settings.send_timeout_s)


def _listen(settings: Settings) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEP_ALIVE_TCP.items():  # connections inherit them
        listener.setsockopt(socket.IPPROTO_TCP, option, value)
    listener.bind(address)
    listener.listen(BACKLOG)  # from now on a client waits for the server instead of being refused
    listener.setblocking(False)
    return listener


async def _announce(gateway: Gateway, port: int) -> None:
    """Once all ranks are ready, says where, with a line to paste."""
    while not gateway.fleet.is_complete:
        await gateway.changed.wait()
        gateway.changed.clear()
    settings = gateway.settings
    url = _url("127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host, port)  # noqa: S104  compared, not bound
    key = '    -H "Authorization: Bearer $PHALANX_API_KEY" \\\n' if settings.api_keys_file else ""
    path, body = _example(gateway)
    text = (
        f"\nPhalanx serves {settings.public_name}{_note(settings)} on {url}\n\n"
        f"  curl {url}{path} -H 'Content-Type: application/json' \\\n{key}    -d '{body}'\n\n"
    )
    with contextlib.suppress(OSError):  # it may be closed or full; a buffer would be flushed again at the exit
        os.write(STDOUT, text.encode())
    if settings.api_keys_file is None and not is_loopback(settings.host):
        logger.warning("open_to_the_network", host=settings.host)


def _example(gateway: Gateway) -> tuple[str, str]:
    """A path that the model answers, and a body for it."""
    texts, facts = '["Hello, my name is", "The capital of France is"]', gateway.fleet.facts
    if facts is not None and facts.exchanges and not facts.generates:
        return facts.exchanges[0], f'{{"input": {texts}}}'
    return BATCH_GENERATE, f'{{"prompts": {texts}, "sampling_params": {{"max_tokens": 16}}}}'


def _note(settings: Settings) -> str:
    """What a person must know before believing the answers."""
    if settings.engine is EngineKind.SIMULATED:
        return " (simulated: no model runs, the answers are made up)"
    if settings.model is None:
        return " (a toy with about a million weights: name a model for real work)"
    return ""


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
