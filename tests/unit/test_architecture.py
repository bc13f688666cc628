"""The rules of the layout, over the sources: who may import whom, one door per outside package, and sizes."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("app", "engines", "phalanx")
EVERYWHERE = (*OURS, "tests", "bench", "deploy", "examples")
MAX_FILE_LINES = 299
MAX_FUNCTION_LINES = 50

# From the top down. A module may import what stands in a lower row, and what belongs to its own entry.
LAYERS = {
    "app": (
        ("app.http.server", "app.node", "app.placed_node"),
        ("app.factory",),
        ("app.http",),
        ("app.api",),
        ("app.gateway",),
        ("app.openai_batches",),
        ("app.exchanges",),
        ("app.batches", "app.files"),
        ("app.dispatch",),
        ("app.ranks",),
        ("app.settings.loading", "app.settings.checks", "app.settings.inheritance"),
        ("app.settings.service_links", "app.settings.folders", "app.settings.node_checks", "app.settings.limits"),
        ("app.settings.ray_checks", "app.settings.sharing_checks", "app.traces"),
        ("app.settings.declaration", "app.metrics"),
        ("app.settings.journal", "app.settings.nodes", "app.settings.gpu_sharing"),
        ("app.settings.ray", "app.settings.spooling", "app.settings.tuning"),
        ("app.keys", "app.journal"),
        ("app.errors", "app.logs", "app.validation", "app.settings.field_types", "app.settings.section"),
        ("app.fresh_ids", "engines.agent"),
        ("engines.tasks", "engines.host"),  # this machine as a host of ranks
        ("engines.logs", "engines.traces", "engines.signals"),
        ("engines.contract", "engines.failures", "phalanx"),
    ),
    "engines": (
        ("engines.__main__",),
        ("engines.agent", "engines.host.guardian", "engines.rank.serve", "engines.host.inspect_model"),
        ("engines.tiny_model", "engines.rank.control", "engines.vllm_engine", "engines.simulated.engine"),
        ("engines.rank.engine", "engines.host", "engines.simulated", "engines.tasks"),
        ("engines.logs", "engines.traces", "engines.signals"),
        ("engines.contract", "engines.host.shared_memory", "engines.failures"),
    ),
}
BESIDE = {  # of one row, and yet the left one may import the right one
    ("app.placed_node", "app.node"),
    ("app.settings.loading", "app.settings.checks"),
    ("engines.simulated", "engines.rank.engine"),
}
TO_SERVE = ("app.http.server", "app.node", "app.settings", "app.errors", "app.logs")
TO_MANAGE_JOURNALS = ("app.journal.opening", "app.journal.place")
MEMORY = ("engines.host.gpu_memory", "engines.host.processes")
TO_TUNE = ("app.ranks.devices", "app.ranks.tuned", "engines.contract.tuned", *MEMORY)
TO_MANAGE_KEYS = ("app.keys.key", "app.keys.store", "engines.contract.node_keys", "engines.host.wire")

# Where each package from outside comes in. What is not listed does not come in at all.
DOORS = {
    "alembic": ("app.journal.sql.version", "app.journal.migrations"),
    "click": ("phalanx",),
    "fastapi": ("app.api", "app.factory", "engines.vllm_engine.exchanges.shortcut"),  # there, vLLM brings it
    "httptools": ("app.http",),
    "httpx": ("phalanx.client", "phalanx.generate.local", "phalanx.ranks_table"),
    "huggingface_hub": ("engines.host.inspect_model", "engines.vllm_engine.checkpoint"),
    "jsonschema_rs": ("engines.vllm_engine.text_checks",),
    "llguidance": ("engines.vllm_engine.text_checks",),  # vLLM brings it
    "msgspec": ("app", "engines", "phalanx.client", "phalanx.generate", "phalanx.tune"),  # what travels, and JSON
    "numpy": ("engines.tiny_model",),
    "opentelemetry": ("app.traces", "engines.traces"),
    "prometheus_client": ("app.metrics", "engines.vllm_engine.metrics"),
    "psutil": ("engines.host.network", "engines.host.processes", "engines.host.strays"),
    "python_multipart": ("app.api.form_cutter",),
    "pyarrow": ("phalanx.generate.parquet",),
    "pydantic": ("app.settings", "phalanx.options", "engines.vllm_engine.exchanges.shortcut"),
    "pydantic_core": ("app.settings.loading",),
    "pydantic_settings": ("app.settings",),
    "pynvml": ("app.ranks.devices", "engines.host.gpu_memory"),
    "ray": ("app.ranks.hosts.ray",),
    "rich": (
        *("phalanx.api_keys_table", "phalanx.batches_table", "phalanx.console", "phalanx.generate.progress"),
        *("phalanx.ranks_table", "phalanx.tune.reporter", "phalanx.tune.table"),
    ),
    "safetensors": ("engines.tiny_model",),
    "setproctitle": (
        *("app.http.server", "engines.agent.agent", "engines.host.guardian", "engines.host.mps_guardian"),
        *("engines.rank", "engines.vllm_engine.confinement", "engines.vllm_engine.external_launcher.follower"),
    ),
    "sqlalchemy": (
        *("app.journal.sql", "app.journal.migrations", "app.journal.journal", "app.journal.writer"),
        "app.journal.openai_batches",
    ),
    "starlette": ("app.api", "app.http", "app.factory"),
    "structlog": ("app.logs", "engines.logs", "app.api.auth", "app.http"),  # the last two bind ids
    "tokenizers": ("engines.tiny_model",),
    "torch": ("engines.tiny_model.training.train", "engines.vllm_engine"),
    "transformers": ("engines.tiny_model.training.train", "engines.vllm_engine"),
    "uvicorn": ("app.http",),
    "uvloop": ("app.http.server", "engines.agent.agent", "engines.rank.serve"),
    "vllm": ("engines.vllm_engine",),
    "zmq": ("app.ranks.channel", "app.ranks.node_port", "engines.agent", "engines.host.wire", "engines.rank.control"),
}
ENVIRONMENT = (
    "app.http.server",  # hands it down
    "app.placed_node",  # as it came from Ray
    "app.settings.loading",
    "phalanx.cli",  # hands it down to a node's agent
    "engines.__main__",  # hands it down, too
    "engines.tiny_model.build",  # where the cache is, also for those who build a model by hand
    "engines.vllm_engine.cpu_expert_parallel",  # vLLM loads it in every process of every user of vLLM
    "engines.vllm_engine.withhold",  # the same
)
PRINTING = ("phalanx.cli", "phalanx.ranks_table")


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_within(module: str, *names: str) -> bool:
    """Whether the module is one of these, or lies in one of these packages."""
    return any(module == name or module.startswith(name + ".") for name in names)


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, at its top or anywhere below. Our own are named down to the module."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                is_module = (ROOT / full.replace(".", "/")).with_suffix(".py").exists()
                is_package = (ROOT / full.replace(".", "/")).is_dir()
                yield full if is_module or is_package else str(node.module)


def all_imports(*folders: str) -> list[tuple[str, str]]:
    return [(name_of(path), imported) for path in sources(*folders) for imported in imports(path)]


def place(module: str, rows: tuple[tuple[str, ...], ...]) -> tuple[int, str] | None:
    """The row and the entry of a module; the longest entry that it lies in."""
    entries = [(row, entry) for row, entries in enumerate(rows) for entry in entries if is_within(module, entry)]
    return max(entries, key=lambda found: len(found[1]), default=None)


@pytest.mark.parametrize("side", list(LAYERS))
def test_imports_go_down(side: str) -> None:
    rows = LAYERS[side]
    wrong = []
    for module, imported in all_imports(side):
        if not is_within(imported, *OURS) or module == side:
            continue
        here, there = place(module, rows), place(imported, rows)
        assert here is not None, f"{module} has no place in LAYERS"
        goes_down = there is not None and here[0] < there[0]
        stays = there is not None and (here[1] == there[1] or (here[1], there[1]) in BESIDE)
        if not (goes_down or stays):
            wrong.append(f"{module} imports {imported}")
    assert not wrong


def test_the_gateway_takes_no_more_than_its_version_from_the_command_line() -> None:
    edges = [edge for edge in all_imports("app", "engines") if is_within(edge[1], "phalanx")]
    assert not [edge for edge in edges if edge[1] != "phalanx"]


def test_engines_know_nothing_of_the_gateway() -> None:
    assert not [edge for edge in all_imports("engines") if is_within(edge[1], "app", "phalanx")]


def test_the_command_line_imports_the_gateway_only_to_serve_to_tune_and_to_manage_files() -> None:
    allowed = (*TO_SERVE, *TO_TUNE, *TO_MANAGE_KEYS, *TO_MANAGE_JOURNALS)
    edges = [edge for edge in all_imports("phalanx") if is_within(edge[1], "app", "engines")]
    assert not [edge for edge in edges if not is_within(edge[1], *allowed)]


def test_packages_from_outside_come_in_by_their_doors() -> None:
    wrong = []
    for module, imported in all_imports(*OURS):
        package = imported.partition(".")[0]
        if package in sys.stdlib_module_names or package in OURS:
            continue
        if not is_within(module, *DOORS.get(package, ())):
            wrong.append(f"{module} imports {imported}")
    assert not wrong


def test_doors_that_nobody_uses_are_gone() -> None:
    edges = all_imports(*OURS)
    unused = [
        f"{package} in {door}"
        for package, doors in DOORS.items()
        for door in doors
        if not any(is_within(module, door) and is_within(imported, package) for module, imported in edges)
    ]
    assert not unused


def test_the_environment_is_read_where_settings_are() -> None:
    readers = {
        name_of(path)
        for path in sources(*OURS)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv")
    }
    assert readers == set(ENVIRONMENT)


def test_nobody_prints_but_who_talks_to_a_person() -> None:
    wrong = [
        f"{path}:{node.lineno}"
        for path in sources("app", "engines", "phalanx", "deploy")
        if not is_within(name_of(path), *PRINTING)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not wrong


# ---------------------------------------------------------------- sizes and words


def test_files_are_short() -> None:
    lengths = {str(path): len(path.read_text().splitlines()) for path in sources(*EVERYWHERE)}
    assert not {path: lines for path, lines in lengths.items() if lines > MAX_FILE_LINES}


def test_no_two_test_files_have_the_same_name() -> None:
    """pytest takes two of one name for the same module, and stops."""
    names = [path.name for path in sources("tests") if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))


def test_functions_are_short() -> None:
    long = {
        f"{path}:{node.lineno} {node.name}": lines
        for path in sources(*OURS)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert not long


def test_every_module_says_what_it_is_for() -> None:
    assert not [str(path) for path in sources(*EVERYWHERE) if path.read_text() and not ast.get_docstring(parse(path))]


def test_every_public_class_and_function_says_what_it_does() -> None:
    """Overriding methods of an interface need not say it again, nor those of a Protocol's typing."""
    silent = [
        f"{path}:{node.lineno} {node.name}"
        for path in sources(*OURS)
        for node in parse(path).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not silent


def test_exceptions_from_the_rules_carry_their_reason() -> None:
    bare = re.compile(r"#\s*(type: ignore(\[[\w, -]+\])?|noqa(: ?[A-Z0-9, ]+)?)\s*$")
    found = [
        f"{path}:{number}"
        for path in sources(*OURS)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if bare.search(line)
    ]
    assert not found


def test_a_module_that_says_any_says_why() -> None:
    silent = [
        str(path)
        for path in sources(*OURS)
        if any(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(parse(path)))
        and not re.search(r"\bAny: \w", path.read_text())
    ]
    assert not silent
