"""How ranks are grouped, and why, as the log says it."""

from typing import Any

import pytest

from app.ranks.model import ModelFacts
from app.ranks.plan import figures, make_plan
from app.ranks.tuned import NOTHING, Taken
from app.settings.declaration import Settings
from engines.contract.spec import GroupKind


def test_the_plan_is_said_in_one_log_line() -> None:
    settings = Settings(model="a/model", tp_size=2)
    assert figures(settings, make_plan(settings, ModelFacts("a/model", is_moe=True), "cuda", 2)) == {
        "model": "a/model",
        "engine": "vllm",
        "device": "cuda",
        "dp_size": 2,
        "tp_size": 2,
        "group_kind": "lockstep",
        "expert_parallel": True,
        "reason": "the experts of a mixture of experts are spread over all ranks, which then step together",
    }


@pytest.mark.parametrize(
    ("given", "taken", "said"),
    [
        ({"is_moe": False}, NOTHING, "a dense model's"),
        ({"dp_size": 1}, NOTHING, "one rank has all"),
        ({"expert_parallel": False}, NOTHING, "--expert-parallel (PHALANX_EXPERT_PARALLEL) is false"),
        ({}, Taken(expert_parallel=False), "phalanx tune found it faster"),
    ],
)
def test_why_ranks_live_apart_is_said(given: dict[str, Any], taken: Taken, said: str) -> None:
    asked = {"is_moe": True, "dp_size": 2} | given
    settings = Settings(**{name: value for name, value in given.items() if name == "expert_parallel"})
    plan = make_plan(settings, ModelFacts("a/model", bool(asked["is_moe"])), "cuda", asked["dp_size"], taken)
    assert plan.group_kind is GroupKind.REPLICAS
    assert str(figures(settings, plan)["reason"]).startswith(said)
