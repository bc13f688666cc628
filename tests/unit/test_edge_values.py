"""Numbers at the edges of their types, in every place that takes one: each runs or is the error of its item alone."""

import asyncio

import msgspec
from batch_bench import make_run
from hypothesis import given
from simulated_bench import Bench, drive

from app.batches.intake import Intake
from app.batches.request import BatchRequest
from app.batches.results_in_memory import ResultsInMemory
from app.batches.run import BatchRun
from app.batches.sampling import SamplingResolver
from app.batches.splitting import split
from app.batches.turnstile import Turnstile
from app.settings.declaration import Settings
from engines.contract.item_errors import ItemErrorCode
from engines.contract.protocol import Outcome, Run, decode_to_rank, encode
from tests.edge_values import ITEMS

MAX_MODEL_LEN = 100
REFUSALS = (
    ItemErrorCode.INVALID_PROMPT,
    ItemErrorCode.INVALID_SAMPLING_PARAMS,
    ItemErrorCode.CONTEXT_LENGTH_EXCEEDED,
)


def take_in(entry: str) -> BatchRun[ResultsInMemory]:
    """A batch of this entry and a plain one."""
    settings = Settings()
    request = BatchRequest(prompts=msgspec.Raw(b"[]"))
    resolver = SamplingResolver(settings, None)
    run = make_run(2)

    async def build() -> None:
        entries = await split(memoryview(b'[%s,"plain"]' % entry.encode()), 2, settings.max_prompt_bytes, Turnstile())
        await Intake(request, resolver, settings, run, MAX_MODEL_LEN).take(enumerate(entries), Turnstile())

    asyncio.run(build())
    return run


@given(ITEMS)
def test_an_item_with_any_numbers_runs_or_is_refused_and_its_neighbour_runs(entry: str) -> None:
    batch = take_in(entry)
    items = batch.items
    assert items[-1].index == 1
    if len(items) == 1:
        error = msgspec.json.decode(batch.sink.read(0))["error"]
        assert error["code"] in REFUSALS
        assert error["param"].startswith("prompts[0]")
        assert len(error["message"]) < 300

    async def scenario(bench: Bench) -> None:
        for attempt, item in enumerate(items, 1):
            assert 0 < item.cost <= item.sequences * MAX_MODEL_LEN
            item.attempt = attempt
            sent = decode_to_rank(encode(Run(incarnation=1, params=[item.params], items=[item.message(0)]), 1))
            assert isinstance(sent, Run)
            bench.engine.submit(sent)
        *unsure, plain = await bench.results_of(*range(1, len(items) + 1))
        assert plain.outcome is Outcome.OK
        for result in unsure:
            assert result.outcome is Outcome.OK or (result.error is not None and result.error.code in REFUSALS)

    drive(scenario, max_model_len=MAX_MODEL_LEN)
