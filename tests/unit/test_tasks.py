"""Tasks and callbacks: whoever owns one hears of its failure, and none is started in another way."""

import ast
import asyncio
from collections.abc import Awaitable, Callable

import pytest
from test_architecture import OURS, name_of, parse, sources

from engines import tasks

Failures = list[tuple[str, str]]
STARTS = {"create_task", "ensure_future"}


async def fail() -> None:
    await asyncio.sleep(0)
    raise RuntimeError("tripped")


def play(scenario: Callable[[tasks.OnFailure], Awaitable[None]]) -> Failures:
    """What was heard of failures meanwhile."""
    heard: Failures = []

    async def run() -> None:
        await scenario(lambda name, error: heard.append((name, str(error))))

    asyncio.run(run())
    return heard


def test_a_tasks_failure_is_heard_of_though_nobody_awaits_it(capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario(on_failure: tasks.OnFailure) -> None:
        task = tasks.start(fail(), "clumsy", on_failure)
        await asyncio.wait([task])

    assert play(scenario) == [("clumsy", "tripped")]
    assert "task_failed" in "".join(capfd.readouterr())


def test_a_task_that_is_ended_has_not_failed() -> None:
    async def scenario(on_failure: tasks.OnFailure) -> None:
        task = tasks.start(asyncio.Event().wait(), "patient", on_failure)
        await asyncio.sleep(0)
        await tasks.end(task, None)
        assert task.cancelled()
        await tasks.end(task)

    assert play(scenario) == []


def test_a_task_that_fails_while_it_is_ended_is_heard_of() -> None:
    async def clean_up() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("cannot clean up")

    async def scenario(on_failure: tasks.OnFailure) -> None:
        task = tasks.start(clean_up(), "untidy", on_failure)
        await asyncio.sleep(0)
        await tasks.end(task)

    assert play(scenario) == [("untidy", "cannot clean up")]


def test_a_callbacks_failure_is_heard_of() -> None:
    async def scenario(on_failure: tasks.OnFailure) -> None:
        asyncio.get_running_loop().call_soon(tasks.guarded(int, "callback", on_failure), "no number")
        await asyncio.sleep(0)

    ((name, error),) = play(scenario)
    assert name == "callback" and "no number" in error


def test_tasks_are_started_in_one_place() -> None:
    wrong = [
        f"{path}:{node.lineno}"
        for path in sources(*OURS)
        if name_of(path) != "engines.tasks"
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node).rpartition(".")[2] in STARTS
        if ast.unparse(node).rpartition(".")[0] not in groups_of(parse(path))
    ]
    assert not wrong, "start it by engines/tasks.py, or in an asyncio.TaskGroup"


def groups_of(module: ast.Module) -> set[str]:
    """The names of its task groups: these see to the ends of their tasks."""
    return {
        ast.unparse(item.optional_vars)
        for node in ast.walk(module)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if item.optional_vars is not None and ast.unparse(item.context_expr) == "asyncio.TaskGroup()"
    }
