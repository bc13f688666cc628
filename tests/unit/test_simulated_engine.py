"""The simulated engine's timing, limits and faults."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from simulated_bench import DEADLINE_S, Bench, drive, text

from engines.contract.protocol import Outcome, Result, Stage
from engines.rank.engine import EngineConfigError

# ---------------------------------------------------------------- timing


def test_without_step_times_all_that_waits_is_done_in_one_turn() -> None:
    async def scenario(bench: Bench) -> None:
        bench.submit(*(text(attempt) for attempt in range(100)), max_tokens=1000)
        await asyncio.sleep(0)
        await bench.results_of(*range(100))
        assert bench.engine.load.steps == 10

    drive(scenario, max_num_seqs=10)


def test_an_answer_takes_as_many_steps_as_it_has_tokens() -> None:
    async def scenario(bench: Bench) -> None:
        began = time.monotonic()
        bench.submit(*(text(attempt) for attempt in range(20)), max_tokens=25)
        assert (bench.engine.load.running, bench.engine.load.waiting) == (10, 10)
        await bench.results_of(*range(20))
        assert bench.engine.load.steps == 50  # two rounds of ten
        assert time.monotonic() - began >= 50 * 0.002

    drive(scenario, max_num_seqs=10, step_ms=1, seq_us=100)


def test_short_answers_do_not_wait_for_long_ones() -> None:
    async def scenario(bench: Bench) -> None:
        bench.submit(text(1), max_tokens=1000)
        bench.submit(text(2), max_tokens=3)
        await bench.results_of(2)
        assert 1 not in bench.results
        bench.engine.abort([1])
        assert bench.engine.load.completion_tokens >= 3 + 3, "tokens of the long one count as they are made"

    drive(scenario, step_ms=2)


def test_the_load_is_told_as_it_changes() -> None:
    async def scenario(bench: Bench) -> None:
        load = bench.engine.load
        bench.submit(text(1), n=4, max_tokens=46)
        assert (load.running, load.waiting, load.kv_cache_usage) == (4, 0, 0.5)
        bench.submit(text(2), n=8, max_tokens=46)  # more cache than is left
        assert (load.running, load.waiting) == (4, 8)
        await bench.results_of(1, 2)
        assert (load.running, load.waiting, load.kv_cache_usage) == (0, 0, 0.0)
        assert (load.prompt_tokens, load.completion_tokens) == (8, 12 * 46)
        assert load.last_step_at is not None and load.last_step_at <= time.monotonic()

    drive(scenario, step_ms=0.1, kv_cache_tokens=400)


def test_an_item_larger_than_the_engine_runs_alone() -> None:
    async def scenario(bench: Bench) -> None:
        bench.submit(text(1), n=10, max_tokens=2)
        bench.submit(text(2), max_tokens=2)
        assert (bench.engine.load.running, bench.engine.load.waiting) == (10, 1)
        await bench.results_of(1, 2)

    drive(scenario, max_num_seqs=4, step_ms=1)


def test_aborted_attempts_end_once_and_make_room() -> None:
    async def scenario(bench: Bench) -> None:
        bench.submit(text(1), text(2), text(3), max_tokens=8000)
        bench.submit(text(4), max_tokens=2)
        bench.engine.abort([1, 2, 99])
        assert [bench.results[attempt].outcome for attempt in (1, 2)] == [Outcome.ABORTED] * 2
        bench.engine.abort([1, 3])
        await bench.results_of(4)
        assert bench.results[4].outcome is Outcome.OK
        assert (bench.engine.load.running, bench.engine.load.waiting) == (0, 0)

    bench = drive(scenario, max_num_seqs=1, step_ms=1)
    assert sorted(bench.results) == [1, 2, 3, 4]


# ---------------------------------------------------------------- starting, metrics, faults


def test_starting_reports_its_stages_and_facts() -> None:
    async def scenario(bench: Bench) -> None:
        again = Bench(is_moe=True, max_num_seqs=7, kv_cache_tokens=99, start_s=0.02)
        began = time.monotonic()
        facts = await again.start()
        assert time.monotonic() - began >= 0.02
        assert again.stages == [Stage.IMPORTING, Stage.CONFIGURING, Stage.LOADING, Stage.WARMING_UP]
        assert (facts.engine, facts.device, facts.is_moe) == ("simulated", "simulated", True)
        assert (facts.max_num_seqs, facts.kv_cache_tokens, facts.data_parallel_size) == (7, 99, 1)

    drive(scenario)


@pytest.mark.parametrize(
    ("engine_args", "message"),
    [
        ({"max_num_seq": 4}, "unknown field `max_num_seq`.*max_num_seqs"),
        ({"max_num_seqs": "4"}, r"Expected `int`, got `str` - at `\$\.max_num_seqs`"),
        ({"step_ms": -1}, "step_ms"),
        ({"fail_config": "no such luck"}, "^no such luck$"),
    ],
)
def test_wrong_arguments_are_a_wrong_configuration(engine_args: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineConfigError, match=message):
        asyncio.run(Bench(**engine_args).start())


def test_metrics_are_prometheus_text_of_this_rank() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.ask(text(1), max_tokens=5)
        families = {family.name: family for family in text_string_to_metric_families(bench.engine.metrics().decode())}
        assert all(name.startswith("simulated:") for name in families)
        (sample,) = families["simulated:generation_tokens"].samples
        assert (sample.labels, sample.value) == ({"engine": "3"}, 5.0)

    drive(scenario)


def test_a_hanging_engine_makes_no_step_but_lets_attempts_go() -> None:
    async def scenario(bench: Bench) -> None:
        bench.submit(text(1), text(2, "please hang here"), max_tokens=2)
        await asyncio.sleep(0.05)
        bench.submit(text(3), max_tokens=2)
        await asyncio.sleep(0.05)
        assert bench.results == {}
        assert (bench.engine.load.running, bench.engine.load.waiting, bench.engine.load.steps) == (2, 1, 0)
        bench.engine.abort([1, 2, 3])
        assert len(bench.results) == 3

    assert drive(scenario, hang_on="hang", step_ms=1).deaths == []


def test_a_choking_engine_reports_its_death_once() -> None:
    async def scenario(bench: Bench) -> None:
        assert (await bench.ask(text(1), max_tokens=2)).outcome is Outcome.OK
        bench.submit(text(2), text(3, "a bone"), max_tokens=2)
        await bench.until(lambda: bool(bench.deaths))
        assert sorted(bench.results) == [1]

    assert drive(scenario, choke_on="bone").deaths == ["the simulated engine choked on a prompt with 'bone'"]


def test_a_slow_prompt_slows_its_neighbours_while_it_runs() -> None:
    async def scenario(bench: Bench) -> None:
        began = time.monotonic()
        bench.submit(text(1, "slow"), text(2), max_tokens=4)
        await bench.results_of(1, 2)
        assert time.monotonic() - began >= 4 * 0.1
        walls = []
        for number in range(3, 13):
            began = time.monotonic()
            await bench.ask(text(number), max_tokens=4)
            walls.append(time.monotonic() - began)
        assert min(walls) < 4 * 0.1

    drive(scenario, slow_on="slow", slow_factor=100, step_ms=1)


def test_prompts_are_recorded_as_they_come_each_time(tmp_path: Path) -> None:
    record = tmp_path / "prompts"

    async def scenario(bench: Bench) -> None:
        bench.submit(text(1, "a"), text(2, "a bone"), max_tokens=2)
        assert record.read_text() == '"a"\n"a bone"\n', "before anything can end the rank"
        bench.submit(text(3, "a"), max_tokens=2)

    drive(scenario, prompts_file=str(record), choke_on="bone")
    assert record.read_text() == '"a"\n"a bone"\n"a"\n'
    with pytest.raises(EngineConfigError, match=r"prompts_file: .*No such file"):
        drive(scenario, prompts_file=str(tmp_path / "nowhere" / "prompts"))


def test_a_crashing_prompt_kills_the_process_before_anyone_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(SystemExit):  # what asyncio lets through a callback
        pass

    def kill(_: int, number: int) -> None:
        assert number == signal.SIGKILL
        raise Killed

    monkeypatch.setattr(os, "kill", kill)
    emitted: dict[int, Result] = {}

    async def scenario(bench: Bench) -> None:
        bench.results = emitted
        bench.submit(text(1), text(2, 'a "poisoned" prompt'), max_tokens=2)
        await asyncio.sleep(DEADLINE_S)

    with pytest.raises(Killed):
        drive(scenario, crash_on='"poisoned"')
    assert emitted == {}
