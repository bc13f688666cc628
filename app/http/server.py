"""The process: uvicorn around the application, signals, and the order in which everything ends."""

import asyncio
import contextlib
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
from app.ranks.strays import adopt_orphans
from app.settings.checks import check_environment, is_loopback
from app.settings.declaration import Settings
from app.settings.folders import check_folders, find_home
from app.settings.inheritance import inherited
from app.settings.service_links import service_links
from app.traces import Traces, open_traces
from engines.contract.spec import EngineKind
from engines.logs import loop_failure_logger, write_stderr

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
    with signals.installed():
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")
        gateway.start()
        logger.info("gateway_listening", address=_url(settings.host, port), pid=os.getpid())
        announcing = asyncio.create_task(_announce(gateway, port), name="announce")
        measuring = asyncio.create_task(lag.measure(gateway.metrics.lag), name="event loop lag")
        code = await _until_end(gateway.fleet.fatal, signals, serving)
        announcing.cancel()
        if code == 0:
            await _until_second_signal(gateway.drain(), signals)
        else:
            gateway.give_up()
        server.should_exit = True
        await asyncio.gather(serving, announcing, return_exceptions=True)
        logger.info("http_closed")
        await _until_second_signal(gateway.stop(), signals)
        measuring.cancel()
        if signals.count > 1:
            await gateway.fleet.kill()
    logger.info("stopped", exit_code=code)
    if gateway.fleet.fatal.done() and code != 0:
        write_stderr(f"phalanx: {gateway.fleet.fatal.result()}\n")  # last: the sentence that the operator needs
    return code


async def _until_end(fatal: "asyncio.Future[FatalError]", signals: "_Signals", serving: "asyncio.Task[None]") -> int:
    """Waits for a signal (0), or for something that the service cannot go on with (its exit code)."""
    signalled = asyncio.create_task(signals.arrived.wait(), name="signal")
    waited_for: list[asyncio.Future[Any]] = [signalled, fatal, serving]  # Any: only their ends matter
    await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    if fatal.done():
        return fatal.result().exit_code
    if signals.count == 0:
        logger.error("http_server_ended")
        return 1
    return 0


async def _until_second_signal(work: "asyncio._CoroutineLike[None]", signals: "_Signals") -> None:
    """Does the work, unless the operator loses patience."""
    task = asyncio.create_task(work, name="ending")
    impatient = asyncio.create_task(signals.second.wait(), name="second signal")
    await asyncio.wait({task, impatient}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        logger.warning("second_signal")
        task.cancel()
    impatient.cancel()
    await asyncio.gather(task, impatient, return_exceptions=True)


class _Signals:
    """SIGTERM and SIGINT as events."""

    def __init__(self) -> None:
        self.count = 0
        self.arrived = asyncio.Event()
        self.second = asyncio.Event()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Listens for signals inside the block."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        self.count += 1
        logger.info("signal", name=signal.Signals(number).name)
        (self.arrived if self.count == 1 else self.second).set()


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
    note = " (simulated: no model runs, the answers are made up)" if settings.engine is EngineKind.SIMULATED else ""
    key = '    -H "Authorization: Bearer $PHALANX_API_KEY" \\\n' if settings.api_keys_file else ""
    text = (
        f"\nPhalanx serves {settings.public_name}{note} on {url}\n\n"
        f"  curl {url}/v1/batch_generate -H 'Content-Type: application/json' \\\n{key}"
        '    -d \'{"prompts": ["Hello, my name is", "The capital of France is"], '
        '"sampling_params": {"max_tokens": 16}}\'\n\n'
    )
    with contextlib.suppress(OSError):  # it may be closed or full; a buffer would be flushed again at the exit
        os.write(STDOUT, text.encode())
    if settings.api_keys_file is None and not is_loopback(settings.host):
        logger.warning("open_to_the_network", host=settings.host)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
