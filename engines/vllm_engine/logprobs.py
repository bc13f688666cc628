"""How many logprobs the items on a rank may have at once: vLLM keeps each one as Python objects until an item ends.

Twenty for each of some thousand tokens of a hundred sequences are gigabytes, and seconds to encode. An item beyond
what is free waits until others have ended; one beyond all there is is refused.
"""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from engines.contract.item_errors import ItemError, ItemErrorCode

FEWEST = 4_000_000  # that there is room for, whatever the memory: about a GiB
BYTES = 256  # that one takes, about
SHARE = 1 / 8  # of this machine's memory, for all its ranks
LARGE = 2_000  # to encode so many takes more than some milliseconds


def logprobs_of(sampling: Any, prompt_tokens: int, vocab_size: int) -> int:  # Any: vLLM's SamplingParams
    """Logprobs that an item may come to have."""
    per_token = sampling.logprobs if sampling.logprobs is not None else len(sampling.logprob_token_ids or ())
    per_prompt_token = sampling.prompt_logprobs or 0
    per_token, per_prompt_token = (vocab_size if count == -1 else count for count in (per_token, per_prompt_token))
    found: int = sampling.n * sampling.max_tokens * per_token + prompt_tokens * per_prompt_token
    return found


class LogprobsRoom:
    """Shared by the items of a rank, in the order in which they came."""

    def __init__(self, ranks: int) -> None:
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.most = max(FEWEST, int(memory_bytes * SHARE / ranks / BYTES))
        self._free = self.most
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def refusal(self, logprobs: int) -> ItemError | None:
        """Why an item with so many cannot run at all."""
        if logprobs <= self.most:
            return None
        return ItemError(
            ItemErrorCode.INVALID_SAMPLING_PARAMS,
            f"the item may come to have {logprobs} logprobs, at most {self.most} are served: lower logprobs, "
            "prompt_logprobs, n or max_tokens",
            "sampling_params.logprobs",
        )

    @asynccontextmanager
    async def taken(self, logprobs: int) -> AsyncIterator[None]:
        """Waits for room, and has it inside the block. Without logprobs there is nothing to wait for."""
        if logprobs == 0:
            yield
            return
        await self._take(logprobs)
        try:
            yield
        finally:
            self._give(logprobs)

    async def _take(self, logprobs: int) -> None:
        if not self._waiting and logprobs <= self._free:
            self._free -= logprobs
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (logprobs, turn)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give(logprobs)  # it had its turn, and will not use it
            else:
                with contextlib.suppress(ValueError):  # whoever gave back since then has met it, and dropped it
                    self._waiting.remove(entry)
                self._give(0)
            raise

    def _give(self, logprobs: int) -> None:
        self._free += logprobs
        while self._waiting:
            size, turn = self._waiting[0]
            if turn.done():  # cancelled: its task has not heard of it yet
                self._waiting.popleft()
                continue
            if size > self._free:
                return
            self._waiting.popleft()
            self._free -= size
            turn.set_result(None)
