"""A batch whose items are lost, given up by engines, or found guilty: one result each, and figures that add up."""

import asyncio
from collections.abc import Callable

import msgspec
from batch_bench import make_items, make_run
from dispatch_bench import Bench, ok

from app.batches.results_in_memory import ResultsInMemory
from app.batches.run import BatchRun
from app.ranks.events import Loss, LossKind
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import Outcome, Result

Run = BatchRun[ResultsInMemory]
GAVE_UP = ItemError(ItemErrorCode.ENGINE_ERROR, "the engine ended the generation with 'abort'")


def play(scenario: Callable[[Bench, Run], None], size: int = 1) -> dict[str, object]:
    """The batch's results after the scenario, by its own encoding."""

    async def run() -> Run:
        bench = Bench()
        batch = make_run(size)
        bench.ready(0, 1, 2, group=0)
        bench.dispatcher.submit(batch.flow, make_items(batch))
        scenario(bench, batch)
        return batch

    batch = asyncio.run(run())
    assert batch.done.is_set()
    result: dict[str, object] = msgspec.json.decode(batch.sink.read(0))
    assert set(batch.stats._holding.values()) == {0}, "a rank is said to hold, or to owe, an item"
    return result


def test_a_culprit_is_convicted_whichever_rank_was_the_first_to_go() -> None:
    def scenario(bench: Bench, batch: Run) -> None:
        for _ in range(2):
            bench.dispatcher.group_lost(0, Loss(LossKind.DIED, "lightning", rank=2))  # the item never ran there
            if not batch.done.is_set():
                bench.ready(0, 1, 2, group=0)

    result = play(scenario)
    assert isinstance(result["error"], dict) and result["error"]["code"] == "poisoned"
    assert (result["rank"], result["attempts"]) == (1, 2)


def test_an_item_that_engines_give_up_again_and_again_gets_its_error() -> None:
    def scenario(bench: Bench, batch: Run) -> None:
        while not batch.done.is_set():
            rank = next(rank for rank, held in bench.held.items() if held)
            bench.answer(rank, make=lambda attempt: Result(attempt, Outcome.LOST, error=GAVE_UP))

    result = play(scenario)
    assert isinstance(result["error"], dict) and result["error"]["code"] == "engine_error"
    assert (result["status"], result["attempts"]) == ("error", 3)


def test_a_lost_item_that_runs_again_is_counted_once() -> None:
    def scenario(bench: Bench, batch: Run) -> None:
        bench.lose(0, 0, 1, 2)
        bench.ready(0, 1, 2, group=0)
        rank = next(rank for rank, held in bench.held.items() if held)
        bench.answer(rank, make=ok)

    assert play(scenario)["attempts"] == 2
