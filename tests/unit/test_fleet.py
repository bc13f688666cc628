"""What the fleet concludes from what ranks say. Their processes are not started here."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dispatch_bench import facts

from app.ranks.devices import Allotment
from app.ranks.events import Aftermath, Loss, Member
from app.ranks.fleet import Fleet
from app.ranks.model import ModelFacts
from app.ranks.plan import make_plan
from app.ranks.rank import Rank, RankState
from app.settings.declaration import Settings
from engines.contract.protocol import (
    PROTOCOL_VERSION,
    Failed,
    FailureKind,
    FromRank,
    Hello,
    RankFacts,
    Ready,
    Result,
    Stage,
    StageReached,
    Status,
)
from engines.contract.spec import Share
from engines.host.rank_log import LogPart

Heard = list[tuple[str, int]]


class Bench:
    """A fleet of ranks that have begun, and what its listener hears."""

    def __init__(self, *, is_moe: bool = False, dp_size: int = 2, **of_settings: Any) -> None:
        settings = Settings(engine="simulated", engine_args={"is_moe": is_moe}, **of_settings)
        self.heard: Heard = []
        self.changes = 0
        self.fleet = Fleet(settings, {"HOME": "/none"}, Allotment("cpu", (Share(),) * dp_size), self, self._on_change)
        self.fleet.plan = make_plan(settings, ModelFacts("played", is_moe), "cpu", dp_size)
        for rank in self.fleet.ranks:
            rank.group = self.fleet.plan.group_of(rank.number)
            rank.begin(LogPart(Path("/none/rank.log")), Share())
        self.fleet._make_groups(self.fleet.plan, self.fleet.ranks)
        data_parallel_size = dp_size if is_moe else 1
        self._facts = as_dict(facts()) | {"is_moe": is_moe, "data_parallel_size": data_parallel_size}

    def _on_change(self) -> None:
        self.changes += 1

    def group_ready(self, group: int, members: list[Member], *, takes_items: bool) -> None:
        self.heard += [("ready", member.rank) for member in members]

    def group_draining(self, group: int) -> None:
        self.heard.append(("held", group))

    def results(self, rank: int, incarnation: int, results: list[Result]) -> None:
        self.heard.append(("results", rank))

    def group_lost(self, group: int, loss: Loss) -> Aftermath:
        self.heard.append((str(loss.kind), group))
        return Aftermath()

    def group_given_up(self, group: int) -> None:
        self.heard.append(("given up", group))

    def held(self, rank: int) -> int:
        return 0

    def suspects(self, group: int) -> int:
        return 0

    def rank(self, number: int) -> Rank:
        return self.fleet.ranks[number]

    def say(self, number: int, message: FromRank) -> None:
        self.fleet._on_message(self.rank(number), message)

    def ready(self, *numbers: int, **of_facts: Any) -> None:
        for number in numbers:
            self.say(number, Ready(incarnation=1, facts=RankFacts(**self._facts | of_facts)))

    def lose(self, number: int, reason: str = "its process was ended by SIGKILL") -> None:
        self.fleet.groups[self.rank(number).group].lose(self.rank(number), reason)

    @property
    def fatal(self) -> tuple[str, int] | None:
        if not self.fleet.fatal.done():
            return None
        error = self.fleet.fatal.result()
        return str(error), error.exit_code


def as_dict(struct: RankFacts) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def play(scenario: Callable[[Bench], None], **of_bench: Any) -> None:
    async def run() -> None:
        bench = Bench(**of_bench)
        try:
            scenario(bench)
        finally:
            await bench.fleet.stop()

    asyncio.run(run())


def test_replicas_take_items_as_each_becomes_ready() -> None:
    def scenario(bench: Bench) -> None:
        bench.ready(1)
        assert bench.heard == [("ready", 1)]
        assert [rank.number for rank in bench.fleet.ranks_taking_items] == [1]
        assert not bench.fleet.is_complete
        bench.ready(0)
        assert bench.heard == [("ready", 1), ("ready", 0)]
        assert bench.fleet.is_complete
        assert bench.changes == 2

    play(scenario)


def test_a_lockstep_group_takes_items_when_all_of_it_is_ready() -> None:
    def scenario(bench: Bench) -> None:
        bench.ready(1)
        assert bench.heard == []
        assert bench.fleet.ranks_taking_items == []
        bench.ready(0)
        assert bench.heard == [("ready", 0), ("ready", 1)]

    play(scenario, is_moe=True)


def test_a_lost_replica_is_lost_alone() -> None:
    def scenario(bench: Bench) -> None:
        bench.ready(0, 1)
        bench.lose(1)
        bench.lose(1, "again")
        assert bench.heard[2:] == [("died", 1)]
        assert (bench.rank(0).state, bench.rank(1).state) == (RankState.READY, RankState.FAILED)
        assert bench.rank(1).last_error == "its process was ended by SIGKILL"
        assert [rank.number for rank in bench.fleet.ranks_taking_items] == [0]
        bench.lose(0)
        assert bench.fleet.has_hope  # both start again
        assert bench.fatal is None

    play(scenario)


def test_without_any_group_that_may_come_back_there_is_no_hope() -> None:
    def scenario(bench: Bench) -> None:
        bench.rank(0).give_up("it choked")
        assert bench.fleet.has_hope
        bench.rank(1).give_up("it choked, too")
        assert not bench.fleet.has_hope

    play(scenario)


def test_a_lost_rank_takes_its_lockstep_group_along() -> None:
    def scenario(bench: Bench) -> None:
        bench.ready(0, 1)
        bench.lose(1)
        assert bench.heard[2:] == [("died", 0)]
        assert bench.rank(0).last_error == "its lock-step group lost rank 1: its process was ended by SIGKILL"
        bench.lose(0, "its process ended with exit code 1")
        assert len(bench.heard) == 3
        assert bench.fleet.ranks_taking_items == []

    play(scenario, is_moe=True)


def test_a_group_that_is_drained_is_held_and_not_lost() -> None:
    def scenario(bench: Bench) -> None:
        group = bench.fleet.groups[0]
        assert not group.drain()
        bench.ready(0, 1)
        assert group.drain() and group.drain()
        assert bench.heard[2:] == [("held", 0)]
        assert {rank.state for rank in bench.fleet.ranks} == {RankState.DRAINING}
        assert bench.fleet.ranks_taking_items == []

    play(scenario, is_moe=True)


def test_readiness_that_comes_after_the_loss_changes_nothing() -> None:
    def scenario(bench: Bench) -> None:
        bench.lose(0, "it was not ready after 1 s")
        bench.ready(0)
        assert bench.heard == [("cannot_start", 0)]
        assert bench.rank(0).state is RankState.FAILED

    play(scenario)


def test_what_a_former_life_said_is_dropped() -> None:
    def scenario(bench: Bench) -> None:
        bench.rank(0).begin(LogPart(Path("/none/rank.log")), Share())
        bench.ready(0)
        bench.say(0, Failed(incarnation=1, kind=FailureKind.ENGINE, reason="why"))
        bench.say(0, StageReached(incarnation=1, stage=Stage.SERVING))
        bench.say(0, Status(incarnation=1))
        assert (bench.heard, bench.rank(0).stage, bench.rank(0).status) == ([], Stage.SPAWNED, None)

    play(scenario)


def test_ranks_that_all_fail_to_start_twice_end_the_service() -> None:
    def scenario(bench: Bench) -> None:
        for group in bench.fleet.groups.values():
            bench.lose(group.number, "its process ended with exit code 1")
            group.start_failures = 1
            bench.fleet._on_group_change(group)
        assert bench.fatal is None
        bench.fleet.groups[0].start_failures = 2
        bench.fleet._on_group_change(bench.fleet.groups[0])
        assert bench.fatal is None
        bench.fleet.groups[1].start_failures = 2
        bench.fleet._on_group_change(bench.fleet.groups[1])
        assert bench.fatal == (
            "rank 1 could not start: its process ended with exit code 1\n  its log is /none/rank.log",
            1,
        )

    play(scenario)


def test_a_service_that_has_served_does_not_end_because_ranks_cannot_start() -> None:
    def scenario(bench: Bench) -> None:
        bench.ready(0)
        for group in bench.fleet.groups.values():
            bench.lose(group.number)
            group.start_failures = 9
            bench.fleet._on_group_change(group)
        assert bench.fatal is None

    play(scenario)


def test_a_wrong_configuration_ends_the_service_at_once() -> None:
    def scenario(bench: Bench) -> None:
        bench.say(0, Failed(incarnation=1, kind=FailureKind.CONFIGURATION, reason="no such model"))
        assert bench.fatal == ("no such model", 2)

    play(scenario)


def test_a_rank_of_another_version_ends_the_service() -> None:
    def scenario(bench: Bench) -> None:
        bench.say(0, Hello(incarnation=1, protocol=PROTOCOL_VERSION, rank=0, pid=4711))
        assert (bench.fatal, bench.rank(0).pid) == (None, 4711)
        bench.say(1, Hello(incarnation=1, protocol=99, rank=1, pid=4712))
        assert bench.fatal == (
            f"rank 1 speaks protocol 99 as rank 1, the gateway {PROTOCOL_VERSION}: "
            "two versions of Phalanx are installed, install one",
            1,
        )

    play(scenario)


def test_a_rank_that_is_not_what_was_planned_ends_the_service() -> None:
    def scenario(bench: Bench) -> None:
        bench.ready(0, is_moe=True)
        assert bench.fatal is not None
        assert bench.fatal[0].startswith("rank 0 does not do what it was started for: its engine takes the model for")
        assert bench.heard == []

    play(scenario)
