"""Work that may never end, take all memory or crash, done where it hurts nobody: in a child with limits.

The rank forks a `Lane` before it has threads of an engine, so that the lane has what the rank has imported, for next
to no memory. The lane itself only waits; a child of it works, and is replaced when it has gone over a limit or died.
One request at a time goes through a lane.
"""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

import msgspec
import setproctitle

Work = Callable[[bytes], bytes]
LANES_TITLE = "phalanx-structures"  # of their processes
WALL_PER_CPU = 4  # a child waits for cores that others need, but not for longer than so many times its CPU time
OUT_OF_MEMORY = 71  # exit code
_LENGTH = struct.Struct("!I")


class Outcome(StrEnum):
    """How a piece of work went."""

    DONE = "done"
    TIME = "time"  # it took more than its CPU time
    STARVED = "starved"  # it got less than that, in several times as long: that says nothing of the work
    MEMORY = "memory"  # it wanted more than there is, as far as it could tell
    CRASHED = "crashed"  # its process died; of memory, too, where the library cannot tell
    FAILED = "failed"  # it raised; `data` is what


# By the number of the timer's signal that ends a child.
AT_LIMIT: dict[int, Outcome] = {signal.SIGPROF: Outcome.TIME, signal.SIGALRM: Outcome.STARVED}


class Answer(msgspec.Struct, array_like=True):
    """What became of one request."""

    outcome: Outcome
    data: bytes = b""


class _Request(msgspec.Struct, array_like=True):
    cpu_s: float
    data: bytes


class LaneDied(Exception):
    """The lane's own process is gone: somebody killed it."""


class Lane:
    """The rank's end. `prepare` makes the work; it is called in the lane, before the first request."""

    def __init__(self, title: str, prepare: Callable[[], Work], memory_bytes: int) -> None:
        ours, theirs = socket.socketpair()
        self._title = title
        self._channel = ours
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.turn = asyncio.Lock()  # one asks at a time
        self.pid = os.fork()
        if self.pid == 0:
            _be_lane(title, theirs, prepare, memory_bytes)
        theirs.close()

    async def ask(self, data: bytes, cpu_s: float) -> Answer:
        """Has the work done within so much CPU time. Take your `turn` first, and do not be cancelled while you wait.

        Raises LaneDied.
        """
        if self._streams is None:
            self._streams = await asyncio.open_unix_connection(sock=self._channel)
        reader, writer = self._streams
        request = msgspec.msgpack.encode(_Request(cpu_s, data))
        try:
            writer.write(_LENGTH.pack(len(request)) + request)
            await writer.drain()
            (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            return msgspec.msgpack.decode(await reader.readexactly(length), type=Answer)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise LaneDied(f"{self._title} (pid {self.pid}) ended unexpectedly") from error

    def close(self) -> None:
        """Ends the lane."""
        if self._streams is not None:
            self._streams[1].close()
        else:
            self._channel.close()


# ---------------------------------------------------------------- the lane's own process


def _be_lane(title: str, channel: socket.socket, prepare: Callable[[], Work], memory_bytes: int) -> NoReturn:
    """Never returns into the rank's code, whose loop and threads do not exist here."""
    try:
        _detach(channel.fileno())
        setproctitle.setproctitle(title)
        gc.freeze()
        _serve(channel, prepare, memory_bytes)
    except BaseException:  # noqa: BLE001  the edge: the rank's frames below must not see it
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(1)


def _detach(keep: int) -> None:
    """Lets go of what belongs to the rank: its sockets, its lifeline, its ways to hear of signals."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, *AT_LIMIT):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _close_others(keep)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)  # whatever the rank has made of it


def _close_others(keep: int) -> None:
    """Leaves standard streams and one more: a copy of a socket that lives on here hides that its owner has died."""
    os.closerange(3, keep)
    os.closerange(keep + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _serve(channel: socket.socket, prepare: Callable[[], Work], memory_bytes: int) -> NoReturn:
    work: Work | None = None
    child: _Child | None = None
    while (frame := _receive(channel)) is not None:
        try:
            work = work or prepare()
        except Exception as error:  # noqa: BLE001  the door: it is what the rank reads
            traceback.print_exc(file=sys.stderr)
            _send(channel, msgspec.msgpack.encode(Answer(Outcome.FAILED, f"{type(error).__name__}: {error}".encode())))
            continue
        is_used = child is not None
        child = child or _Child(work, memory_bytes)
        answer = child.ask(frame)
        if answer.outcome in (Outcome.MEMORY, Outcome.CRASHED) and is_used:
            child = _Child(work, memory_bytes)  # what it did before may have been at fault
            answer = child.ask(frame)
        if not child.is_alive:
            child = None
        _send(channel, msgspec.msgpack.encode(answer))
    os._exit(0)


class _Child:
    """Works, within limits."""

    def __init__(self, work: Work, memory_bytes: int) -> None:
        self._channel, theirs = socket.socketpair()
        self.is_alive = True
        self._pid = os.fork()
        if self._pid == 0:
            _be_child(theirs, work, memory_bytes)
        theirs.close()

    def ask(self, frame: bytes) -> Answer:
        """One request, to its answer or the child's end."""
        with contextlib.suppress(OSError):
            _send(self._channel, frame)
            answer = _receive(self._channel)
            if answer is not None:
                return msgspec.msgpack.decode(answer, type=Answer)
        self._channel.close()
        self.is_alive = False
        _, status = os.waitpid(self._pid, 0)
        if os.WIFSIGNALED(status):
            return Answer(AT_LIMIT.get(os.WTERMSIG(status), Outcome.CRASHED))
        return Answer(Outcome.MEMORY if os.waitstatus_to_exitcode(status) == OUT_OF_MEMORY else Outcome.CRASHED)


def _be_child(channel: socket.socket, work: Work, memory_bytes: int) -> NoReturn:
    try:
        _close_others(channel.fileno())
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limit = _data_bytes() + memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        while (frame := _receive(channel)) is not None:
            request = msgspec.msgpack.decode(frame, type=_Request)
            signal.setitimer(signal.ITIMER_PROF, request.cpu_s)
            signal.setitimer(signal.ITIMER_REAL, request.cpu_s * WALL_PER_CPU)
            answer = _attempt(work, request.data)
            for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
                signal.setitimer(timer, 0)
            _send(channel, msgspec.msgpack.encode(answer))
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except BaseException:  # noqa: BLE001  the edge: nothing of the lane's code must run here
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(1)


def _attempt(work: Work, data: bytes) -> Answer:
    try:
        return Answer(Outcome.DONE, work(data))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  the door: it is what the rank reads
        traceback.print_exc(file=sys.stderr)
        return Answer(Outcome.FAILED, f"{type(error).__name__}: {error}".encode())


def _data_bytes() -> int:
    """What counts for RLIMIT_DATA now."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData:")]
    return int(line.split()[1]) * 1024


def _send(channel: socket.socket, frame: bytes) -> None:
    channel.sendall(_LENGTH.pack(len(frame)) + frame)


def _receive(channel: socket.socket) -> bytes | None:
    """A frame, or None when the other end is gone."""
    head = _receive_exactly(channel, _LENGTH.size)
    return None if head is None else _receive_exactly(channel, _LENGTH.unpack(head)[0])


def _receive_exactly(channel: socket.socket, size: int) -> bytes | None:
    received = bytearray()
    while len(received) < size:
        part = channel.recv(size - len(received))
        if not part:
            return None
        received += part
    return bytes(received)
