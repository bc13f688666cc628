"""A rank's side of the queue: one ZeroMQ socket, owned by a thread of its own.

Loading a model blocks the rank's main thread for tens of seconds; heartbeats, stages and stopping must go on
meanwhile. The thread also watches the processes below the rank, and the guardian above it: when one of them is gone
unexpectedly, the rank is lost, and says so.
"""

import contextlib
import math
import os
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec
import zmq

from engines import logs
from engines.contract.node_keys import NodeKeys, read_node_keys
from engines.contract.protocol import Failed, FailureKind, Message, Status, ToRank, decode_to_rank, encode
from engines.contract.spec import RankSpec
from engines.failures import kind
from engines.host import processes, torchrun
from engines.host.shared_memory import SharedMemory
from engines.host.wire import BROKEN, prepare_dialling
from engines.rank.engine import EngineDied, EngineLoad

logger = logs.get_logger(logs.RANK_LOGGER)
EXIT_OK = 0
EXIT_FAILED = 1
EXIT_CONFIGURATION = 2
GUARDIAN_LIFELINE = 0  # the rank's standard input: EOF when the guardian is gone
LINGER_MS = 2000


class ControlChannel(threading.Thread):
    """Sends and receives for the rank. `on_message` is called on this thread."""

    def __init__(self, spec: RankSpec, on_message: Callable[[ToRank], None]) -> None:
        super().__init__(name="control", daemon=True)
        self._spec = spec
        self._on_message = on_message
        self._outgoing: deque[bytes] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._shared_memory = SharedMemory()
        self._to_watch: deque[tuple[int, str]] = deque()
        self._watched: dict[int, str] = {}  # pidfd -> what it is; the thread's own
        self._expects_ends = False
        self._last_words: tuple[int, threading.Event] | None = None
        self.load = EngineLoad()
        self.untouched: Callable[[], list[int]] = list  # the engine's, once there is one
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.DEALER)
        self._monitor: zmq.Socket[bytes] | None = None  # of a connection to another machine
        if spec.identity:
            prepare_dialling(self._socket, spec.identity, _keys(spec))
            self._monitor = self._socket.get_monitor_socket(BROKEN)
        self._socket.set(zmq.LINGER, LINGER_MS)
        self._socket.set(zmq.SNDTIMEO, LINGER_MS)  # it takes all, unless it could not even begin to connect
        self._socket.set_hwm(0)  # a full buffer must not drop a result; credit bounds what is on the way
        self._poller = zmq.Poller()

    def send(self, message: Message) -> None:
        """Queues a message, from any thread."""
        self._outgoing.append(encode(message, self._spec.epoch))
        os.eventfd_write(self._wake, 1)

    def watch(self, watched: dict[str, int]) -> None:
        """From now on, the end of any of these processes (title -> pid) is the rank's death.

        Raises EngineDied if one of them has ended already.
        """
        for what, pid in watched.items():
            try:
                self._to_watch.append((os.pidfd_open(pid), f"{what} (pid {pid})"))
            except ProcessLookupError:
                raise EngineDied(f"{what} (pid {pid}) ended while the engine started") from None
        os.eventfd_write(self._wake, 1)

    def unwatch(self) -> None:
        """From now on these processes may end: the engine is being shut down. On the thread itself, or before it."""
        self._expects_ends = True

    def exit(self, code: int) -> NoReturn:
        """Sends what is queued and ends the rank; its guardian ends what is below. From any thread; never returns."""
        self._last_words = (code, threading.Event())
        os.eventfd_write(self._wake, 1)
        if threading.current_thread() is self:
            self._leave(code)
        self._last_words[1].wait()
        raise SystemExit(code)

    def run(self) -> None:
        """The thread: until the process ends. It never ends alone: nobody would hear of the rank any more."""
        try:
            self._serve()
        except BaseException as error:  # the edge: whatever it was, the rank is deaf from here on
            logger.exception("control_failed")
            self._fail(f"its control thread failed: {kind(error, with_message=self._spec.log_prompts)}")
        finally:
            os._exit(EXIT_FAILED)

    def _serve(self) -> NoReturn:
        self._socket.connect(self._spec.endpoint)
        for fd in (self._socket, self._wake, GUARDIAN_LIFELINE):
            self._poller.register(fd, zmq.POLLIN)
        if self._monitor is not None:
            self._poller.register(self._monitor, zmq.POLLIN)
        next_status = time.monotonic()
        while True:
            wait_s = max(0.0, next_status - time.monotonic())
            ready = dict(self._poller.poll(math.ceil(wait_s * 1000)))
            if GUARDIAN_LIFELINE in ready:
                self._follow_guardian()
            if self._wake in ready:
                os.eventfd_read(self._wake)
                self._register_watched()
            self._report_dead(ready)
            if self._socket in ready:
                self._receive()
            if self._monitor in ready:
                self._give_up_connection()
            if time.monotonic() >= next_status:
                self._outgoing.append(encode(self._status(), self._spec.epoch))
                next_status = time.monotonic() + self._spec.status_interval_s
            self._flush()
            if self._last_words:
                self._leave(self._last_words[0])

    def _receive(self) -> None:
        while True:
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = decode_to_rank(frame)
            except msgspec.DecodeError as error:
                self._fail(f"the gateway sent something that is no message of this protocol: {error}")
            if (message.epoch, message.incarnation) == (self._spec.epoch, self._spec.incarnation):
                self._on_message(message)

    def _give_up_connection(self) -> NoReturn:
        """What was on its way when it broke may be lost: the gateway runs it again, elsewhere or in another life."""
        logger.error("gateway_lost", endpoint=self._spec.endpoint)
        os._exit(EXIT_FAILED)  # nobody hears last words; the guardian ends what is below

    def _flush(self) -> None:
        while self._outgoing:
            self._socket.send(self._outgoing.popleft())

    def _register_watched(self) -> None:
        while self._to_watch:
            pidfd, what = self._to_watch.popleft()
            self._watched[pidfd] = what
            self._poller.register(pidfd, zmq.POLLIN)

    def _report_dead(self, ready: dict[object, int]) -> None:
        dead = {pidfd: what for pidfd, what in self._watched.items() if pidfd in ready}
        if dead and not self._expects_ends:
            self._fail(f"{', '.join(dead.values())} ended unexpectedly")
        for pidfd in dead:
            self._poller.unregister(pidfd)
            del self._watched[pidfd]

    def _fail(self, reason: str) -> NoReturn:
        try:
            untouched = self.untouched()
        except RuntimeError:  # the main thread changed it meanwhile: then all are suspects, which costs a trial more
            untouched = []
        failed = Failed(incarnation=self._spec.incarnation, kind=FailureKind.ENGINE, reason=reason, untouched=untouched)
        self._outgoing.append(encode(failed, self._spec.epoch))
        self._leave(EXIT_FAILED)

    def _follow_guardian(self) -> None:
        """Does what the guardian would have done. Resource trackers end by themselves, once this process is gone."""
        if os.read(GUARDIAN_LIFELINE, 4096):
            return
        for pidfd in self._watched:  # torchrun's workers are not below this process
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        processes.kill_workers(os.getpid(), self._shared_memory)
        torchrun.remove_shared_memory(self._spec)
        shutil.rmtree(self._spec.directory, ignore_errors=True)
        self._shared_memory.look([os.getpid()])
        while self._shared_memory.remove():  # the main thread works on, and may make more meanwhile
            self._shared_memory.look([os.getpid()])
        os._exit(EXIT_FAILED)

    def _leave(self, code: int) -> NoReturn:
        """Ends the process at once, whatever the main thread is blocked in. The guardian ends what is below."""
        self._flush()
        if self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close()
        self._socket.close()
        self._context.term()  # returns when all of it is on its way, or after LINGER_MS
        os._exit(code)

    def _status(self) -> Status:
        load = self.load
        last = load.last_step_at
        return Status(
            incarnation=self._spec.incarnation,
            given=load.given,
            prepared=load.prepared,
            awaiting=load.awaiting,
            running=load.running,
            waiting=load.waiting,
            kv_cache_usage=load.kv_cache_usage,
            steps=load.steps,
            longest_step_s=load.longest_step_s,
            step_age_s=None if last is None else time.monotonic() - last,
            prompt_tokens=load.prompt_tokens,
            completion_tokens=load.completion_tokens,
            preemptions=load.preemptions,
        )


def _keys(spec: RankSpec) -> NodeKeys | None:
    return None if spec.node_keys_file is None else read_node_keys(Path(spec.node_keys_file))
