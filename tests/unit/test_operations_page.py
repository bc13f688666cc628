"""docs/operations.md against the sources: every event and every metric is there, and nothing that is gone."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.metrics import Metrics

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations.md"
ROW = re.compile(r"^\| `(?P<name>[a-z_]+)` \|(?P<second>[^|]*)\|", re.MULTILINE)
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
LEVEL_OF = {"exception": "error"}


def table(heading: str) -> dict[str, str]:
    """A table of the page: the first column, and the second."""
    section = re.split(r"^#+ ", PAGE.read_text(), flags=re.MULTILINE)
    (found,) = [part for part in section if part.startswith(heading + "\n")]
    rows = [(row["name"], row["second"].strip()) for row in ROW.finditer(found)]
    assert len(rows) == len(dict(rows)), f"{heading}: a name stands there twice"
    return dict(rows)


def calls(*folders: str, beside: str | None = None) -> Iterator[tuple[Path, ast.Call, ast.Attribute]]:
    """Every call of a method of a logger."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if beside is not None and path.is_relative_to(ROOT / beside):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    owner = ast.unparse(node.func.value)
                    is_logger = owner.endswith("logger") or re.search(r"get_logger\([^()]*\)$", owner)
                    if is_logger and node.func.attr in {*LEVELS, "log"}:
                        yield path, node, node.func


def events(*folders: str, beside: str | None = None) -> dict[str, set[str]]:
    """Every event that is logged, with its levels."""
    found: dict[str, set[str]] = {}
    for path, call, method in calls(*folders, beside=beside):
        if path.name == "withhold.py":
            continue  # vLLM's logger, not ours
        name = call.args[1 if method.attr == "log" else 0]
        is_name = isinstance(name, ast.Constant) and re.fullmatch(r"[a-z]+(_[a-z]+)*", str(name.value))
        assert is_name, f"{path}:{call.lineno}: an event has a fixed name in snake_case; what varies is a field"
        level = "error, info" if method.attr == "log" else LEVEL_OF.get(method.attr, method.attr)
        found.setdefault(str(name.value), set()).add(level)  # type: ignore[attr-defined]  # it is a constant
    return found


def check(heading: str, logged: dict[str, set[str]]) -> None:
    described = table(heading)
    missing = sorted(logged.keys() - described.keys())
    assert not missing, f"add a row for {missing} to the table '{heading}' of docs/operations.md"
    gone = sorted(described.keys() - logged.keys())
    assert not gone, f"nobody logs {gone}: take their rows out of the table '{heading}' of docs/operations.md"
    wrong = {name: levels for name, levels in logged.items() if {described[name]} != levels}
    assert not wrong, f"docs/operations.md, '{heading}': the levels in the sources are {wrong}"


def test_every_event_of_the_gateway_is_described() -> None:
    check("Events of the gateway", events("app", "phalanx", "engines/host"))


def test_every_event_of_a_rank_is_described() -> None:
    ranks = events("engines/rank", "engines/vllm_engine", "engines/simulated")
    check("Events of a rank", ranks | {"task_failed": {"error"}, "unhandled_failure": {"error"}})


def test_every_event_of_an_agent_is_described() -> None:
    check("Events of a node agent", events("engines/agent"))


def test_every_metric_is_described() -> None:
    described, exposed = set(table("Metrics")), metrics()
    missing = sorted(exposed - described)
    assert not missing, f"add a row for {missing} to the table 'Metrics' of docs/operations.md"
    assert not described - exposed, f"there is no metric {sorted(described - exposed)}: docs/operations.md"


def metrics() -> set[str]:
    """What the gateway exposes by itself, and every name that stands in its sources."""
    plugins = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["vllm.general_plugins"]
    named = {
        str(node.value)
        for path in (ROOT / "app").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and re.fullmatch(r"phalanx_[a-z_]+", str(node.value))
    }
    exposition = Metrics("1").exposition().decode()
    exposed = {line.split(" ")[2] for line in exposition.splitlines() if line.startswith("# TYPE ")}
    return (named | exposed) - set(plugins)


def test_an_event_without_a_row_is_told_what_to_add() -> None:
    logged = {**events("app", "phalanx", "engines/host"), "rank_vanished": {"error"}}
    with pytest.raises(AssertionError, match=r"add a row for \['rank_vanished'\]"):
        check("Events of the gateway", logged)
