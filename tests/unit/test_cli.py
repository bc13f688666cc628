"""The command line: what reaches the server, and what is said when nothing does."""

import logging
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import structlog

from app.settings.declaration import Settings, variable
from phalanx.cli import main
from phalanx.options import AFTER_DASHES, setting_options
from phalanx.ranks_table import print_ranks


@pytest.fixture(autouse=True)
def without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of whoever runs the tests are none of theirs."""
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Settings]]:
    """What the server was started with. It ends at once, with 7."""
    calls: list[Settings] = []

    def run(settings: Settings) -> int:
        calls.append(settings)
        return 7

    server = ModuleType("app.http.server")
    server.run = run  # type: ignore[attr-defined]  # a module is given its function
    monkeypatch.setitem(sys.modules, "app.http.server", server)
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    yield calls
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    structlog.reset_defaults()


def code_of(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def serve(served: list[Settings], *args: str) -> Settings:
    assert code_of("serve", "--port", "0", *args) == 7
    return served[-1]


def test_flags_have_vllms_spellings_too(served: list[Settings]) -> None:
    for spelling in (["-dp", "2"], ["--dp-size=2"], ["--data-parallel-size", "2"], ["--dp_size", "2"], ["-dp=2"]):
        assert serve(served, *spelling).dp_size == 2
    assert serve(served, "-tp", "2").tp_size == 2


def test_switches_have_three_positions(served: list[Settings]) -> None:
    assert serve(served).enforce_eager is None
    assert serve(served, "--enforce-eager").enforce_eager is True
    assert serve(served, "--no-enforce-eager").enforce_eager is False
    assert serve(served, "--no-enable-expert-parallel").expert_parallel is False
    assert serve(served, "-ep").expert_parallel is True


def test_the_model_is_named_either_way_but_once(served: list[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(served, "hub/name").model == "hub/name"
    assert serve(served, "--model", "hub/name").model == "hub/name"
    assert serve(served, "hub/name", "--model", "hub/name").model == "hub/name"
    assert code_of("serve", "one/model", "--model", "another/one") == 2
    assert capsys.readouterr().err == "phalanx: MODEL is one/model and --model is another/one: name one model\n"


def test_what_stands_after_the_dashes_is_the_engines(served: list[Settings]) -> None:
    settings = serve(served, "hub/name", "--", "--block-size", "32", "--", "-O3")
    assert (settings.model, settings.extra_args) == ("hub/name", ["--block-size", "32", "--", "-O3"])
    settings = serve(served, "--", "--block-size", "32")
    assert (settings.model, settings.extra_args) == (None, ["--block-size", "32"])


def test_a_flag_wins_over_its_variable(served: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHALANX_DP_SIZE", "3")
    monkeypatch.setenv("PHALANX_EXPERT_PARALLEL", "false")
    assert serve(served).dp_size == 3
    assert serve(served, "--dp-size", "4", "--expert-parallel").dp_size == 4
    assert (served[0].expert_parallel, served[1].expert_parallel) == (False, True)


def test_an_unknown_flag_is_told_where_vllms_own_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("serve", "--block-size", "32") == 2
    said = capsys.readouterr().err
    assert said.startswith("phalanx: --block-size is no flag of `phalanx serve`")
    assert "`phalanx serve MODEL -- --block-size ...`" in said
    assert code_of("serve", "--prot", "1") == 2
    assert "did you mean --port?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["serve", "--dp-size", "0"], "--dp-size (PHALANX_DP_SIZE) is 0: it must be at least 1"),
        (["serve", "./none", "--port", "0"], "--model (PHALANX_MODEL) is ./none: there is no such folder"),
        (["serve", ""], "--model (PHALANX_MODEL) is empty: it must not be empty"),
        (["serve", "--port"], "Option '--port' requires an argument."),
        (["srve"], "No such command 'srve'."),
    ],
)
def test_a_wrong_command_ends_with_one_sentence(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(*args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"phalanx: {said}")
    assert err.count("\n") == 1


def test_help_names_every_setting_and_its_variable(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("serve", "--help") == 0
    shown = capsys.readouterr().out
    for name in Settings.model_fields:
        if name != AFTER_DASHES:
            assert "--" + name.replace("_", "-") in shown
            assert variable(name) in shown
    assert "round_robin|least_loaded|prefix" in shown


def test_every_setting_has_its_flag() -> None:
    assert {option.name for option in setting_options()} | {AFTER_DASHES} == set(Settings.model_fields)


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("--version") == 0
    assert capsys.readouterr().out.startswith("phalanx 0.")


def test_a_rank_is_one_line_and_its_error_another(capsys: pytest.CaptureFixture[str]) -> None:
    ready = {"rank": 0, "state": "ready", "stage": "serving", "group": 0, "incarnation": 2, "pid": 123}
    ready |= {
        "node_rank": 1,
        "gpus": ["0"],
        "running": 5,
        "waiting": 0,
        "credit": 139,
        "kv_cache_usage": 0.25,
        "tokens_per_s": 1234.5,
    }
    starting = {"rank": 1, "state": "starting", "stage": "loading", "progress": 0.4, "cores": "0-3", "step_age_s": None}
    print_ranks([ready | {"step_age_s": 1.25, "restarts": 1}, starting | {"last_error": "out of [memory]"}])
    _, first, second, error = capsys.readouterr().out.splitlines()
    assert first.split() == "0 ready serving 0 2 1 123 GPU 0 5 0 139 25% 1,234 1.2s 1".split()  # noqa: SIM905
    assert second.split()[:4] == ["1", "starting", "loading", "40%"]
    assert "cores 0-3" in second
    assert error == "rank 1: out of [memory]"
