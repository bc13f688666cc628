"""Plays the gateway to one rank's process, for the tests beside this file."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import zmq
from guarded import DEADLINE_S, make_spec

from engines.contract.protocol import FromRank, Message, decode_from_rank, encode
from engines.contract.spec import write_spec

Kind = TypeVar("Kind", bound=Message)


class Played:
    """The gateway's end of a rank's channel, and the rank's process."""

    def __init__(self, process: "subprocess.Popen[bytes]", socket: "zmq.Socket[bytes]") -> None:
        self.process = process
        self._socket = socket

    def send(self, message: Message | bytes) -> None:
        self._socket.send(message if isinstance(message, bytes) else encode(message, 0))

    def next(self) -> FromRank:
        return decode_from_rank(self._socket.recv())

    def receive(self, kind: type[Kind]) -> Kind:
        """The next message of this kind."""
        while True:
            message = self.next()
            if isinstance(message, kind):
                return message

    def end(self) -> tuple[int, str]:
        """Exit code and stderr."""
        assert self.process.stderr is not None
        return self.process.wait(DEADLINE_S), self.process.stderr.read().decode()


@contextmanager
def play(folder: Path, code: str, **fields: Any) -> Iterator[Played]:
    """A process that runs this code, with its spec in `folder`; the fields are the spec's."""
    spec = make_spec(folder, status_interval_s=0.05, **fields)
    Path(spec.directory).mkdir(parents=True)
    write_spec(spec, Path(spec.directory) / "rank.json")
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set_hwm(0)  # as the gateway's: a full buffer would drop what a rank that ends has sent
        socket.set(zmq.RCVTIMEO, int(DEADLINE_S * 1000))
        socket.set(zmq.SNDTIMEO, int(DEADLINE_S * 1000))  # until the rank has connected
        socket.bind(spec.endpoint)
        with subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        ) as process:
            try:
                yield Played(process, socket)
            finally:
                process.kill()
