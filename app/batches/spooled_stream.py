"""The results of a batch that is streamed while its body still comes.

Many clients read nothing before they have sent everything: were such a batch held back for its unread results, its
body would wait for its items, and its client for its body. So while the body is open, what is beyond the window goes
to a spool. Once the body has come whole, the batch is held back like any other's.
"""

import asyncio

from app.batches.memory import Holding
from app.batches.result_spool import ResultSpool
from app.batches.result_stream import ResultStream
from app.batches.spool_file import SpoolClosed
from app.logs import get_logger

logger = get_logger("batches")


class SpooledStream(ResultStream):
    """A ResultStream whose owner runs `keep_up` as a task for as long as it is used, and calls `end_body`.

    Lines go to the spool as long as older ones are there.
    """

    def __init__(self, holding: Holding, window_bytes: int, spool: ResultSpool) -> None:
        super().__init__(holding, window_bytes)
        self._spool = spool
        self._spooled_bytes = 0  # of the unread
        self._counted_bytes = 0  # that the spool has in memory, as `holding` knows it
        self._is_body_open = True
        self._work = asyncio.Event()  # there may be something to write out, or to read back

    async def keep_up(self) -> None:
        """Writes out what is unread and reads back what is wanted, until it is cancelled, or released just then.

        When the disk takes no more, the batch is held back until its client reads. Raises OSError when it cannot be
        read.
        """
        while True:
            await self._work.wait()
            self._work.clear()
            await self._write_out()
            while self._spool and self._wants_more():
                try:
                    lines = await self._spool.read(self._window_bytes)
                except SpoolClosed:
                    return
                self._read_back(lines)

    def end_body(self) -> None:
        """The body has come whole: whoever has sent it reads from now on, or holds its batch back."""
        self._is_body_open = False
        self._spool.end_body()
        self._hold_when_full()

    def release(self) -> None:
        super().release()
        self._spool.close()

    # -- as ResultStream asks

    def _keep(self, line: bytes) -> None:
        is_full = self._unread_bytes - self._spooled_bytes > self._window_bytes  # this line counted in
        if not self._spool and not (is_full and self._is_body_open):
            super()._keep(line)
            return
        self._spool.append(line)
        self._spooled_bytes += len(line)
        self._count_memory()
        self._work.set()

    def _has_more_elsewhere(self) -> bool:
        if self._spool:
            self._work.set()
        return len(self._spool) > 0

    def _hold_when_full(self) -> None:
        if not self._is_body_open:
            super()._hold_when_full()

    def _forget(self, size: int) -> None:
        super()._forget(size)
        if self._spool and self._wants_more():
            self._work.set()

    # -- the spool

    async def _write_out(self) -> None:
        try:
            await self._spool.write_out()
        except OSError as error:
            if self._is_body_open:
                logger.warning("result_spool_failed", reason=error.strerror or str(error))
            self._is_body_open = False
            self._hold_when_full()
        self._count_memory()

    def _read_back(self, lines: list[bytes]) -> None:
        self._spooled_bytes -= sum(map(len, lines))
        self._count_memory()
        for line in lines:
            super()._keep(line)

    def _wants_more(self) -> bool:
        return self._unread_bytes - self._spooled_bytes <= self._window_bytes // 2

    def _count_memory(self) -> None:
        """The holding has what the spool has not written yet."""
        now = self._spool.memory_bytes
        self._holding.add(now - self._counted_bytes)
        self._counted_bytes = now
