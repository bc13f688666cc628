"""OpenAI's own package, the newest and one two major versions older: programs that run in its environment."""

import ast
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest

from tests.clients.environments import Client
from tests.clients.programs.checking import PREFIX, Target
from tests.clients.server import Server
from tests.service import Json

PROGRAMS = Path(__file__).with_name("programs")
SERVERS = {"openai_checks.py": "server", "openai_files.py": "server", "openai_embeddings.py": "embedding_server"}
VERSIONS = ("openai-newest", "openai-older")
TIMEOUT_S = 280


def checks() -> list[tuple[str, str]]:
    """Each program with the names of its checks."""
    return [
        (program, node.name)
        for program in SERVERS
        for node in ast.parse((PROGRAMS / program).read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith(PREFIX)
    ]


def target(server: Server) -> Target:
    return Target(
        server.openai_url,
        server.model,
        server.shown_key,
        server.api_key is not None,
        server.limited_key,
        server.lacks(),
    )


@pytest.fixture(scope="module")
def outcomes(client: Callable[[str], Client]) -> Callable[[str, str, Server], dict[str, Json]]:
    """Gives the outcomes of a program's checks, all of which run when the first is asked for."""

    @cache
    def run(version: str, program: str, server: Server) -> dict[str, Json]:
        command = ("python", str(PROGRAMS / program), json.dumps(asdict(target(server))))
        lines = client(version).run(*command, timeout_s=TIMEOUT_S).splitlines()
        return {found["name"]: found for found in map(json.loads, lines)}

    return run


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("program", "name"), checks())
def test_openai(
    version: str,
    program: str,
    name: str,
    outcomes: Callable[[str, str, Server], dict[str, Json]],
    request: pytest.FixtureRequest,
) -> None:
    found = outcomes(version, program, request.getfixturevalue(SERVERS[program]))[name]
    if found["outcome"] == "skipped":
        pytest.skip(found["detail"])
    assert found["outcome"] == "passed", found["detail"]
