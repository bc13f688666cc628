"""Items that crash whatever runs them, among a thousand: they alone fail, and it takes few restarts to find them."""

import math

import pytest

from tests.service import STAYS_DOWN, Service, serving, until

COUNT = 1000
PACE = {"step_ms": 2, "max_num_seqs": 64, "crash_on": "poison"}
IN_FLIGHT = 2 * 64  # of a rank at most: what runs, and as many in advance


@pytest.mark.parametrize("is_moe", [False, True], ids=["replicas", "lockstep"])
@pytest.mark.parametrize("poisons", [{617}, {3, 998}])
def test_one_or_two_among_a_thousand_are_found(poisons: set[int], is_moe: bool) -> None:
    prompts = [f"item {index} {'poison' if index in poisons else 'well'}" for index in range(COUNT)]
    with serving("--restart-backoff-s", "50ms", **PACE, is_moe=is_moe) as service:
        service.errors_expected = True
        with service.begin(prompts, sampling_params={"max_tokens": 8}) as batch:
            other = service.batch(["another batch"] * 20, sampling_params={"max_tokens": 2})
            answer = batch.answer()
        assert other["request_counts"]["ok"] == 20
        assert answer["request_counts"]["ok"] == COUNT - len(poisons)
        failed = {result["index"]: result["error"]["code"] for result in answer["results"] if result["status"] != "ok"}
        assert failed == dict.fromkeys(poisons, "poisoned")
        until(lambda: service.health()["status"] == "ok", "it does not come back")
        groups = {rank["group"]: rank["restarts"] for rank in service.ranks()}
        in_flight = IN_FLIGHT * (2 if is_moe else 1)
        # Two that were not in flight together are two cohorts: each has a first crash of its own.
        bound = sum(math.ceil(math.log2(in_flight)) + 1 + 1 for _ in poisons)
        assert sum(groups.values()) <= bound, groups
        assert service.metric("phalanx_items_poisoned_total") == len(poisons)
        assert service.metric("phalanx_suspect_items") == 0


def test_other_groups_serve_on_while_one_is_on_trial() -> None:
    """The group that crashed stays down until the test has seen enough, and starts its trial then."""
    with serving(*STAYS_DOWN, **PACE) as service:
        service.errors_expected = True
        with service.begin(["a poison"], sampling_params={"max_tokens": 4}) as batch:
            until(lambda: service.metric("phalanx_suspect_items") == 1, "it does not crash")
            assert service.health()["status"] == "degraded"
            crashed = next(rank["rank"] for rank in service.ranks() if rank["suspects"])
            for _ in range(4):
                assert serve_others(service) == {1 - crashed}
            assert service.act(crashed, "restart").status_code == 202
            while service.metric("phalanx_items_poisoned_total") == 0:
                serve_others(service)
            assert batch.answer()["results"][0]["error"]["code"] == "poisoned"


def serve_others(service: Service) -> set[int]:
    """Some items that crash nothing, and on which ranks they ran."""
    answer = service.batch(["quick"] * 4, sampling_params={"max_tokens": 1})
    assert [(result["status"], result["attempts"]) for result in answer["results"]] == [("ok", 1)] * 4
    return {result["rank"] for result in answer["results"]}
