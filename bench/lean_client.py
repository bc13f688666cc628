"""A client that costs little itself: one connection, requests one after another, bytes that are counted and not
understood. httpx takes longer for a request than a server may."""

import asyncio
import time
from urllib.parse import urlsplit

import msgspec

from bench.processes import MeasurementFailed

LIMIT_BYTES = 2**24


class Exchange(msgspec.Struct):
    """One request's answer. Times are seconds since it was sent."""

    status: int
    first_s: float  # until the first byte of the body
    seconds: float
    events: int  # of a stream, all that hold something
    body: bytes  # of an answer that does not stream


class LeanClient:
    """A connection to a server. Keeps it open."""

    def __init__(self, url: str, path: str) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._path = parts.hostname or "", parts.port or 80, path
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, body: bytes) -> Exchange:
        """Sends a body and reads the answer to its end. Raises MeasurementFailed for any status but 200."""
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=LIMIT_BYTES)
        reader, writer = self._reader, self._writer
        head = f"POST {self._path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        began = time.perf_counter()
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        status = int(answer[9:12])
        first_s, events, kept = 0.0, 0, list[bytes]()
        is_stream = b"text/event-stream" in answer
        chunk = b""
        if b"transfer-encoding: chunked" in answer:
            while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
                chunk = (await reader.readexactly(size + 2))[:-2]
                first_s = first_s or time.perf_counter() - began
                if is_stream:
                    events += chunk.count(b"data: {")
                else:
                    kept.append(chunk)
            await reader.readexactly(2)
        else:
            length = int(answer.partition(b"content-length:")[2].partition(b"\r\n")[0])
            chunk = await reader.readexactly(length)
            kept.append(chunk)
            first_s = time.perf_counter() - began
        if status != 200:
            raise MeasurementFailed(f"{self._path}: {status} {chunk[:500]!r}")
        return Exchange(status, first_s, time.perf_counter() - began, events, b"".join(kept))

    def close(self) -> None:
        """Leaves the server."""
        if self._writer is not None:
            self._writer.close()


async def ask_all(url: str, path: str, bodies: list[bytes], connections: int) -> list[Exchange]:
    """All bodies over so many connections, in the order in which they end."""
    waiting = iter(bodies)
    clients = [LeanClient(url, path) for _ in range(min(connections, len(bodies)))]
    done: list[Exchange] = []

    async def work(client: LeanClient) -> None:
        for body in waiting:
            done.append(await client.ask(body))

    try:
        await asyncio.gather(*(work(client) for client in clients))
    finally:
        for client in clients:
            client.close()
    return done
