"""What happens in one round on several nodes. Links come first: nobody tells either end that one is cut."""

import random
from dataclasses import replace
from typing import TypeVar

from engines.contract.node_protocol import SILENCE_S
from tests.chaos.plan import (
    ON_GATEWAY,
    ON_RANKS,
    Blow,
    PlannedBatch,
    PlannedBlow,
    PlannedExchange,
    Round,
    draw_batches,
    draw_blow,
    draw_exchanges,
    with_background,
)
from tests.netns.network import WAYS

Asked = TypeVar("Asked", PlannedBatch, PlannedExchange)
ON_AGENTS = (Blow.KILL_AGENT, Blow.KILL_AGENT, Blow.TERM_AGENT, Blow.TERM_AGENT, Blow.STOP_AGENT)
LINKS_SHARE, AGENTS_SHARE, GATEWAY_SHARE = 0.45, 0.35, 0.1
SILENCES_S = (  # how long a node cannot be heard: mostly too short to be taken for lost, on the verge of it, and longer
    (0.1, 0.6 * SILENCE_S),
    (0.1, 0.6 * SILENCE_S),
    (0.7 * SILENCE_S, 1.2 * SILENCE_S),
    (1.2 * SILENCE_S, 1.6 * SILENCE_S),
)


def draw_on_nodes(seed: int, number: int, nodes: int, ranks: int) -> Round:
    """The round of this number."""
    chance = random.Random(f"{seed}/{number}/nodes")
    asked = Round(number, draw_batches(chance, number), exchanges=draw_exchanges(chance, number))
    kind = chance.random()
    if kind < LINKS_SHARE:
        cut_off = chance.sample(range(nodes), chance.choice((1, 1, 1, min(2, nodes - 1))))
        blows = [_cut(chance, node) for node in cut_off]
    elif kind < LINKS_SHARE + AGENTS_SHARE:
        struck = chance.sample(range(1, nodes), chance.choice((1, 1, nodes - 1)))
        blows = [_agent_blow(chance, node) for node in struck]
    else:
        blows = [draw_blow(chance, ranks, ON_RANKS)]
    if not asked.has_poison:
        blows += [_any_blow(chance, nodes, ranks) for _ in range(chance.choice((0, 0, 0, 1, 2)))]
    if chance.random() < GATEWAY_SHARE:
        blows.append(draw_blow(chance, ranks, ON_GATEWAY))
    longest_s = max(blow.lasts_s for blow in blows)
    batches = [_perhaps_later(chance, batch, longest_s) for batch in asked.batches]
    exchanges = [_perhaps_later(chance, exchange, longest_s) for exchange in asked.exchanges]
    return with_background(chance, replace(asked, batches=batches, exchanges=exchanges, blows=blows), ranks)


def _cut(chance: random.Random, node: int) -> PlannedBlow:
    ways = chance.choice((WAYS, WAYS, WAYS, *((way,) for way in WAYS)))
    lasts_s = chance.uniform(*chance.choice(SILENCES_S))
    return PlannedBlow(Blow.CUT_LINK, 0, chance.uniform(0, 0.6), node, lasts_s, ways)


def _agent_blow(chance: random.Random, node: int) -> PlannedBlow:
    what = chance.choice(ON_AGENTS)
    lasts_s = chance.uniform(*chance.choice(SILENCES_S)) if what is Blow.STOP_AGENT else chance.uniform(0, 1.5)
    return PlannedBlow(what, 0, chance.uniform(0, 0.6), node, lasts_s)


def _any_blow(chance: random.Random, nodes: int, ranks: int) -> PlannedBlow:
    """In addition to the others: on a rank, or an agent."""
    if chance.random() < 0.6:
        return draw_blow(chance, ranks, ON_RANKS)
    return _agent_blow(chance, chance.randrange(1, nodes))


def _perhaps_later(chance: random.Random, asked: Asked, longest_s: float) -> Asked:
    """Some come while a node is gone."""
    return replace(asked, delay_s=chance.uniform(0, longest_s)) if chance.random() < 0.3 else asked
