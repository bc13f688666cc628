"""How large items are that do not run: prepared exactly as those that do, beside the loop and in short turns."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from engines.contract.item_errors import ItemError
from engines.contract.protocol import ItemSize, RunItem
from engines.rank.engine import EngineLoad
from engines.vllm_engine.logprobs import LogprobsRoom, logprobs_of
from engines.vllm_engine.sampling import SamplingCompiler

TURN_S = 0.01  # of the loop, or of the thread aside, until others have theirs
Prepare = Callable[[RunItem, Any], tuple[Any, Any] | ItemError]  # Any: vLLM's parameters, prompt and parameters


class ItemCounter:
    """Counts for one engine. `prepare` is what every item goes through before it is generated for."""

    def __init__(
        self, prepare: Prepare, sampling: SamplingCompiler, logprobs: LogprobsRoom, aside: Executor, load: EngineLoad
    ) -> None:
        self._prepare = prepare
        self._sampling = sampling
        self._logprobs = logprobs
        self._aside = aside
        self._load = load

    async def count(self, params: list[bytes], items: list[RunItem], vocab_size: int) -> list[ItemSize]:
        """A size for each item, in their order; an item's `params` is a place in the list."""
        templates = await self._templates(params)
        loop = asyncio.get_running_loop()
        sizes: list[ItemSize] = []
        while len(sizes) < len(items):  # a turn at a time: large prompts of items that run want the thread, too
            rest = items[len(sizes) :]
            sizes += await loop.run_in_executor(self._aside, self._count_some, rest, templates, vocab_size)
        return sizes

    async def _templates(self, params: list[bytes]) -> list[Any]:
        """The parameters, each checked. One may take a millisecond to compile, so the loop has its turns."""
        templates: list[Any] = []
        turn_ends = time.monotonic() + TURN_S
        for encoded in params:
            templates.append(await self._sampling.checked(encoded))
            if time.monotonic() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.monotonic() + TURN_S
        return templates

    def _count_some(self, items: list[RunItem], templates: list[Any], vocab_size: int) -> list[ItemSize]:
        """The sizes of the first of these items, as many as a turn is enough for: one at least."""
        sizes: list[ItemSize] = []
        turn_ends = time.monotonic() + TURN_S
        for item in items:
            sizes.append(self._size_of(item, templates[item.params], vocab_size))
            self._load.prepared += 1
            if time.monotonic() > turn_ends:
                break
        return sizes

    def _size_of(self, item: RunItem, template: Any, vocab_size: int) -> ItemSize:
        prepared = self._prepare(item, template)
        if isinstance(prepared, ItemError):
            return ItemSize(error=prepared)
        prompt, sampling = prepared
        length = len(prompt["prompt_token_ids"])
        refusal = self._logprobs.refusal(logprobs_of(sampling, length, vocab_size))
        return ItemSize(error=refusal) if refusal is not None else ItemSize(length, sampling.max_tokens)
