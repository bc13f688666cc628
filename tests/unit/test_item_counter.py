"""Sizes of items that do not run. Rendering and parameters are played; the thread aside is real."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

from simulated_bench import text

from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import ItemSize, RunItem
from engines.rank.engine import EngineLoad
from engines.vllm_engine.counting import TURN_S, ItemCounter
from engines.vllm_engine.logprobs import LogprobsRoom

REFUSED = ItemError(ItemErrorCode.INVALID_SAMPLING_PARAMS, "it explodes")
TOO_LONG = ItemError(ItemErrorCode.CONTEXT_LENGTH_EXCEEDED, "too long")


class Played:
    """What an item goes through, with slow prompts and many logprobs."""

    def __init__(self) -> None:
        self.threads: set[str] = set()

    async def checked(self, params: bytes) -> object:
        return REFUSED if params == b"refused" else params

    def prepare(self, item: RunItem, template: Any) -> Any:
        self.threads.add(threading.current_thread().name)
        if isinstance(template, ItemError):
            return template
        if b"long" in item.prompt:
            return TOO_LONG
        if b"slow" in item.prompt:
            time.sleep(2 * TURN_S)
        logprobs = 10**6 if template == b"logprobs" else None
        unset = dict.fromkeys(("logprob_token_ids", "prompt_logprobs"))
        sampling = SimpleNamespace(n=1, max_tokens=10**6, logprobs=logprobs, **unset)
        return {"prompt_token_ids": [1, 2, 3]}, sampling


def count(*items: RunItem, params: list[bytes]) -> tuple[list[ItemSize], Played, EngineLoad, int]:
    """The sizes, what was played, and how often something else had the thread aside meanwhile."""
    played, load, turns = Played(), EngineLoad(), 0

    async def scenario() -> list[ItemSize]:
        nonlocal turns
        with ThreadPoolExecutor(1, "aside") as aside:
            sampling: Any = played
            counter = ItemCounter(played.prepare, sampling, LogprobsRoom(1), aside, load)
            counting = asyncio.ensure_future(counter.count(params, list(items), vocab_size=100))
            while not counting.done():
                await asyncio.get_running_loop().run_in_executor(aside, lambda: None)
                turns += not counting.done()
            return await counting

    return asyncio.run(scenario()), played, load, turns


def test_every_item_has_its_size_or_the_error_that_it_would_get() -> None:
    items = [text(0), text(0, "long"), text(0), text(0), text(0)]
    for item, place in zip(items, (0, 0, 1, 2, 0), strict=True):
        item.params = place
    sizes, played, load, _ = count(*items, params=[b"plain", b"refused", b"logprobs"])
    assert sizes[0] == sizes[4] == ItemSize(3, 10**6)
    assert (sizes[1].error, sizes[2].error) == (TOO_LONG, REFUSED)
    assert sizes[3].error is not None and "logprobs" in sizes[3].error.message
    assert load.prepared == len(items), "a rank that counts is not stalled"
    assert {name.partition("_")[0] for name in played.threads} == {"aside"}, "the loop is free"


def test_large_prompts_of_items_that_run_have_the_thread_between_two_turns() -> None:
    *_, turns = count(*[text(0, "slow")] * 4, params=[b"plain"])
    assert turns >= 3
