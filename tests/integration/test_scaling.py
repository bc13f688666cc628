"""More ranks and fewer, by hand, under load: nothing is lost."""

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.nodes import clustered
from tests.service import Service, serving, until

ITEMS = 2000
SHORT = {"max_tokens": 16, "ignore_eos": True}
PACE = {"step_ms": 20, "max_num_seqs": 16}


def scale(service: Service, dp_size: object) -> tuple[int, dict[str, object]]:
    answer = service.client.post("/v1/ranks/scale", json={"dp_size": dp_size})
    return answer.status_code, answer.json()


def test_ranks_are_added_and_removed_under_load_and_no_item_is_lost() -> None:
    with serving(dp_size=2, **PACE) as service, service.begin(["a prompt"] * ITEMS, sampling_params=SHORT) as pending:
        until(lambda: all(service.held), "not all ranks work")
        status, said = scale(service, 4)
        assert (status, said["adding"], said["removing"]) == (202, [2, 3], [])
        until(lambda: len(service.held) == 4 and all(service.held), "the new ranks have no work")
        status, said = scale(service, 1)
        assert (status, said["adding"], said["removing"]) == (202, [], [1, 2, 3])
        status, said = scale(service, 2)
        assert status == 409 and "ranks are still being removed" in str(said)
        until(lambda: len(service.ranks()) == 1, "they are not removed")
        assert not [title for rank in (1, 2, 3) for title in service.titled(f"phalanx-rank {rank}")]
        assert scale(service, 2)[0] == 202
        answer = pending.answer()
        assert [r["index"] for r in answer["results"]] == list(range(ITEMS))
        assert answer["request_counts"]["ok"] == ITEMS
        assert Counter(r["rank"] for r in answer["results"]).keys() == {0, 1, 2, 3}
        assert max(r["attempts"] for r in answer["results"]) == 1
        service.wait_ready()
        assert service.batch(["a prompt"] * 10)["request_counts"]["ok"] == 10


def test_new_ranks_go_where_there_is_room_on_several_nodes() -> None:
    with clustered(dp_size=2) as (_, service, agent):
        assert scale(service, 6)[0] == 202
        until(lambda: len(service.ranks()) == 6 and service.health()["status"] == "ok", "they do not come up")
        assert Counter(rank["node_rank"] for rank in service.ranks()) == {0: 3, 1: 3}
        assert len(agent.titled("phalanx-rank")) == 3
        status, said = scale(service, 200)
        assert status == 409 and "all cores of the nodes that are there (2) have ranks" in str(said)
        assert len(service.ranks()) == 6
        assert scale(service, 2)[0] == 202
        until(lambda: len(service.ranks()) == 2, "they are not removed")


@pytest.mark.parametrize("dp_size", [0, -1, "2", 2.5, None, 10**6])
def test_how_many_ranks_must_be_a_number(scaled: Service, dp_size: object) -> None:
    status, said = scale(scaled, dp_size)
    assert status == 400 and said["error"]["param"] == "dp_size"  # type: ignore[index]


def test_it_is_nothing_to_be_read(scaled: Service) -> None:
    answer = scaled.client.get("/v1/ranks/scale")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_a_lockstep_group_keeps_its_size() -> None:
    with serving(dp_size=2, is_moe=True) as service:
        status, said = scale(service, 3)
        assert status == 409 and "are one lock-step group, which has as many as it began with" in str(said)


@pytest.fixture(scope="module")
def scaled() -> Iterator[Service]:
    with serving() as service:
        yield service
