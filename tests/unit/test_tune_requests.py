"""What `phalanx tune` is asked: the work, what is left open, and a sweep that is gone on with."""

import itertools
import random
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import msgspec
import pytest

from app.ranks.tuned import TILES
from app.settings.declaration import Settings, variable
from engines.contract.tuned import Site, sequence_arguments
from phalanx.cli import main
from phalanx.durable_file import write_durably
from phalanx.generate.errors import ServiceProblem, UsageProblem
from phalanx.tune.lengths import Lengths, parse_lengths
from phalanx.tune.measuring import engine_arguments
from phalanx.tune.request import TuneRequest, workload_of
from phalanx.tune.search import Number, Space
from phalanx.tune.sweep import Sweep, alone, read_sweep, sweep_file, write_sweep
from phalanx.tune.table import print_trials, shown
from phalanx.tune.trials import Candidate, Facts, Round, Trial
from phalanx.tune.workload import Workload

SHARED = Number.RANKS_PER_GPU
SITE = Site(model="hub/model", engine="vllm 0.32.0", machine="GPU", dp_size=2, tp_size=1, executor="auto")


def workload(**given: Any) -> Workload:
    """As the command's flags describe it."""
    names = ("prompts", "input_tokens", "output_tokens", "max_tokens", "input_format", "prompt_column", "template")
    nothing = dict.fromkeys([*names, "messages_column", "system", "sampling_params"])
    return workload_of(nothing | {"chat": False} | given)


def asked(**settings: Any) -> TuneRequest:
    """The command for a service with these settings."""
    return TuneRequest(
        model="hub/model",
        serve_flags=(),
        settings=Settings(**settings),
        workload=workload(),
        items=None,
        budget_s=1,
        is_fresh=False,
        as_json=False,
    )


@pytest.mark.parametrize(
    ("text", "expected"), [("128", Lengths(128)), ("lognormal:128:1024", Lengths(128, 1024)), ("1", Lengths(1))]
)
def test_lengths_are_numbers_or_spread(text: str, expected: Lengths) -> None:
    assert parse_lengths("--output-tokens", text) == expected
    assert str(expected) == text


@pytest.mark.parametrize("text", ["0", "", "many", "lognormal:128", "lognormal:0:5", "lognormal:1024:128", "-3", "1.5"])
def test_other_lengths_are_refused_by_name(text: str) -> None:
    with pytest.raises(UsageProblem, match=f"^--output-tokens is {text}: "):
        parse_lengths("--output-tokens", text)


def test_spread_lengths_have_their_mean_and_end_at_their_limit() -> None:
    source = random.Random(1)
    drawn = [Lengths(128, 1024).draw(source) for _ in range(20_000)]
    assert min(drawn) >= 1 and max(drawn) == 1024
    assert mean(drawn) == pytest.approx(128, rel=0.05)
    assert {Lengths(7).draw(source) for _ in range(10)} == {7}


def test_every_candidate_gets_the_same_work_and_every_round_other() -> None:
    first, second = workload(output_tokens="lognormal:128:1024"), workload(output_tokens="lognormal:128:1024")
    assert first.items(1, 0, 50) == second.items(1, 0, 50)
    assert first.fingerprint == second.fingerprint
    assert first.items(2, 0, 50) != first.items(1, 0, 50)
    assert first.fingerprint != workload(output_tokens="128").fingerprint
    assert {len(item["prompt"]) for item in first.items(1, 0, 50)} == {100}
    assert first.sampling_params["ignore_eos"] is True


def test_rows_of_a_file_are_had_in_turn(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"question": "a"}\n{broken\n{"question": "b"}\n{"question": "c"}\n')
    work = workload(prompts=str(path), template="Q: {question}", max_tokens=7)
    assert [item["prompt"] for item in work.items(0, 0, 2)] == ["Q: a", "Q: b"]
    assert [item["prompt"] for item in work.items(1, 2, 2)] == ["Q: c", "Q: a"]
    assert work.items(1, 0, 7)[:2] == work.items(2, 0, 2), "a candidate that takes more of them begins elsewhere"
    assert (work.distinct, workload().distinct) == (3, None)
    assert work.sampling_params == {"temperature": 0, "max_tokens": 7}
    before = work.fingerprint
    path.write_text('{"question": "d"}\n')
    assert workload(prompts=str(path), template="Q: {question}", max_tokens=7).fingerprint != before
    exact = workload(prompts=str(path), template="Q: {question}", output_tokens="9", sampling_params='{"top_p": 0.5}')
    assert exact.items(0, 0, 1) == [{"prompt": "Q: d", "sampling_params": {"max_tokens": 9}}]
    assert exact.sampling_params["ignore_eos"] is True and exact.sampling_params["top_p"] == 0.5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"template": "{x}"}, "--template is for --prompts FILE"),
        ({"max_tokens": 5}, "--max-tokens is for --prompts FILE"),
        ({"prompts": "p.jsonl", "input_tokens": "5"}, "--input-tokens does not go with --prompts FILE"),
        ({"prompts": "p.jsonl", "output_tokens": "5", "max_tokens": 5}, "--max-tokens and --output-tokens both say"),
        ({"prompts": "p.jsonl", "template": "{x}", "prompt_column": "x"}, "each say what the prompt is"),
        ({"prompts": "none.jsonl"}, "none.jsonl cannot be read: No such file or directory"),
        ({"prompts": "p"}, "does not say its format"),
        ({"sampling_params": "[]"}, "--sampling-params is no JSON object"),
    ],
)
def test_work_that_cannot_be_is_one_sentence(
    given: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageProblem, match=said):
        workload(**given)


def test_a_file_without_prompts_is_no_work(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"question": "a"}\n')
    with pytest.raises(UsageProblem, match="no prompt can be made of any row"):
        workload(prompts=str(path))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Space()),
        ({"max_num_seqs": 64}, Space(numbers=(SHARED, Number.STEP_TOKENS))),
        ({"enforce_eager": True}, Space(numbers=(SHARED, Number.STEP_TOKENS))),
        ({"engine_args": {"compilation_config": {}}}, Space(numbers=(SHARED, Number.STEP_TOKENS))),
        ({"extra_args": ["-O3"]}, Space(numbers=(SHARED, Number.STEP_TOKENS))),
        ({"extra_args": ["-cc.mode=3"]}, Space(numbers=(SHARED, Number.STEP_TOKENS))),
        ({"extra_args": ["--max-num-seqs", "64", "--max-num-batched-tokens=512"]}, Space(numbers=(SHARED,))),
        ({"max_num_batched_tokens": 512}, Space(numbers=(SHARED, Number.GRAPH_TOKENS, Number.SEQUENCES))),
        ({"expert_parallel": False}, Space(groups=False)),
        ({"ranks_per_gpu": 1}, Space(numbers=(Number.GRAPH_TOKENS, Number.SEQUENCES, Number.STEP_TOKENS))),
    ],
)
def test_what_the_user_has_set_is_not_searched(settings: dict[str, Any], expected: Space) -> None:
    assert asked(**settings).space == expected


def test_work_that_is_done_in_another_way_is_another_sweep() -> None:
    ways = [
        asked().fingerprint({}),
        asked(dispatch="prefix").fingerprint({}),
        asked(prefetch=8).fingerprint({}),
        asked().fingerprint({TILES: "/own"}),
        replace(asked(), items=40).fingerprint({}),
    ]
    assert len(set(ways)) == len(ways)
    assert asked(seed=7, port=0, max_num_seqs=64).fingerprint({"HOME": "/x"}) == ways[0], "the site says the rest"
    assert asked(max_batch_items=5, max_body_bytes="1GiB").fingerprint({}) == ways[0], "such limits are for clients"
    assert asked(stream_window_bytes="1MiB").fingerprint({}) != ways[0]


def test_a_sweep_is_gone_on_with_by_one_at_a_time(tmp_path: Path) -> None:
    with alone(tmp_path / "sweep"), pytest.raises(ServiceProblem, match="another `phalanx tune` measures this"):  # noqa: SIM117
        with alone(tmp_path / "sweep"):
            pass
    with alone(tmp_path / "sweep"):
        pass


def test_a_candidate_is_what_the_service_is_told() -> None:
    assert engine_arguments(Candidate(), "cuda") == {}
    assert engine_arguments(Candidate(sequences=1024, step_tokens=8192), "cuda") == {
        **sequence_arguments(1024, "cuda"),
        "max_num_batched_tokens": 8192,
    }
    assert engine_arguments(Candidate(sequences=1024), "cpu") == {"max_num_seqs": 1024}


@pytest.mark.parametrize("most", [64, 128, 500, 512, 1024, 2048, 8192])
def test_graphs_are_for_all_steps_up_to_the_largest_and_pad_none_by_more_than_an_eighth(most: int) -> None:
    arguments = engine_arguments(Candidate(sequences=256, graph_tokens=most), "cuda")
    sizes = arguments["compilation_config"]["cudagraph_capture_sizes"]
    assert sizes == sorted(set(sizes)) and sizes[-1] == most
    assert all(after - 1 - before <= max(7, before / 8) for before, after in itertools.pairwise(sizes))
    assert len(sizes) < 70


def trials() -> list[Trial]:
    """The baseline, one that is faster, and one that does not start."""
    facts = Facts(ranks=2, group_kind="replicas", sequences=256, step_tokens=4096)
    rounds = [Round(seconds=2.0, output_tokens=400), Round(seconds=2.0, output_tokens=404)]
    fast = [Round(seconds=1.0, output_tokens=400)] * 2
    baseline = Trial(candidate=Candidate(), facts=facts, start_s=[3.0], rounds=rounds, memory_bytes=3 << 30)
    faster = Trial(candidate=Candidate(sequences=512), facts=facts, start_s=[5.0], rounds=fast, took_s=[9.0])
    return [
        msgspec.structs.replace(baseline, tails_s=[0.25, 0.35], took_s=[9.0]),
        msgspec.structs.replace(faster, tails_s=[0.1]),
        Trial(candidate=Candidate(sequences=1024), took_s=[1.0], failure="out of [memory]"),
    ]


def test_a_sweep_is_found_again(tmp_path: Path) -> None:
    path = sweep_file(tmp_path, SITE, "abc")
    assert read_sweep(path) is None
    sweep = Sweep(site=SITE, workload="some", fills=2, trials=trials())
    write_sweep(path, sweep)
    assert read_sweep(path) == sweep
    sweep.add(trials()[0])
    assert len(sweep.trials) == 3 and len(sweep.trials[0].rounds) == 4 and sweep.trials[0].start_s == [3.0, 3.0]
    for bad in (b"{", b'{"version": 1, "workload": "", "site": {}}'):
        path.write_bytes(bad)
        with pytest.raises(UsageProblem, match="--fresh begins anew"):
            read_sweep(path)


def test_a_table_has_the_fastest_first_and_says_why_others_are_missing(capsys: pytest.CaptureFixture[str]) -> None:
    found = trials()
    print_trials(found, found[1])
    _, first, second, failure = capsys.readouterr().out.splitlines()
    assert first.split() == ["512", "sequences", "400", "±0.0%", "1.99", "0.10", "s", "-", "5.0", "s", "2"]
    assert second.split() == ["baseline", "201", "±0.5%", "1.00", "0.30", "s", "3.0", "GiB", "3.0", "s", "2"]
    assert failure == "1024 sequences cannot be used: out of [memory]"


def test_a_trial_for_scripts_has_all_figures_or_the_failure() -> None:
    found = trials()
    fast = shown(found[1], found[0])
    assert (fast["tokens_per_s"], fast["against_baseline"], fast["start_s"]) == (400.0, 1.99, 5.0)
    none = shown(found[2], found[0])
    assert none["tokens_per_s"] is None and none["failure"] == "out of [memory]"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--budget", "soon"], "--budget is soon: it must be a number of seconds, or such as 90s"),
        (["--", "--prot", "1"], "--prot is no flag of `phalanx serve` (did you mean --port?)"),
        (["--", "--dp-size", "x"], "--dp-size (PHALANX_DP_SIZE) is x: it must be a whole number"),
        (["--", "--model", "other"], "MODEL is hub/model, and the flags of the service name another one"),
        (["--", "other"], "MODEL is hub/model, and the flags of the service name another one"),
        (["--output-tokens", "0"], "--output-tokens is 0: it must be a number such as 128"),
        (
            ["--dp-size", "2", "--", "--launcher", "ray"],
            "one machine is tuned at a time, and --launcher is ray: leave it out",
        ),
        (
            ["--", "--api-keys-file", "keys.json"],
            "the service asks for API keys (--api-keys-file): set PHALANX_API_KEY",
        ),
    ],
)
def test_a_command_that_cannot_be_is_one_sentence(
    args: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)
    monkeypatch.delenv("PHALANX_API_KEY", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["tune", "hub/model", *args])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"phalanx: {said}") and err.count("\n") == 1


def test_a_file_that_cannot_be_replaced_leaves_no_half_of_it(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with pytest.raises(OSError, match="kept"):
        write_durably(tmp_path / "kept", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
