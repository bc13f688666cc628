"""The clients of a round, and of what each service is asked before the first one."""

from tests.chaos.attached import Attached
from tests.chaos.background import Background
from tests.chaos.client import Client
from tests.chaos.exchanges import ExchangeClient
from tests.chaos.lines import LineBatch
from tests.chaos.plan import PlannedBatch, PlannedExchange, Round
from tests.exchanging import COMPLETIONS

WARM_UP = Round(
    -1,
    [
        PlannedBatch(["warm up"], max_tokens=1, delay_s=0),
        PlannedBatch(["warm up"], max_tokens=1, delay_s=0, in_background=True),
        PlannedBatch(["warm up"], max_tokens=1, delay_s=0, in_background=True, endpoint=COMPLETIONS),
    ],
    exchanges=[PlannedExchange(COMPLETIONS, ["warm up", "and again"], max_tokens=1, delay_s=0, streams=True)],
)


def clients_of(round_: Round) -> list[Client]:
    """Those who ask something in a round."""
    return [
        *(_client(batch, f"round {round_.number} batch {index}") for index, batch in enumerate(round_.batches)),
        *map(ExchangeClient, round_.exchanges),
    ]


def _client(batch: PlannedBatch, name: str) -> Client:
    if not batch.in_background:
        return Attached(batch)
    return Background(batch, name) if batch.endpoint is None else LineBatch(batch, batch.endpoint, name)
