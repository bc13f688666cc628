"""What is done while an engine core loads is done once it runs, and before anybody waits for it."""

import sys
from types import ModuleType

import pytest

from engines.vllm_engine import compat


@pytest.fixture
def utils(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """In the place of vLLM's module, which takes seconds to import."""
    made = ModuleType("vllm.v1.engine.utils")
    for name in ("vllm", "vllm.v1", "vllm.v1.engine"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, made.__name__, made)
    setattr(sys.modules["vllm.v1.engine"], "utils", made)  # noqa: B010  mypy knows no such attribute
    return made


def test_it_is_done_once_before_the_wait(utils: ModuleType) -> None:
    done: list[str] = []

    def wait(socket: str, *, launch: str) -> str:
        done.append(f"waits for {socket} {launch}")
        return "addresses"

    utils.wait_for_engine_startup = wait  # type: ignore[attr-defined]
    compat.while_engine_core_loads(lambda: done.append("work"))
    assert not done
    assert [utils.wait_for_engine_startup("a", launch="b") for _ in range(2)] == ["addresses"] * 2
    assert done == ["work", "waits for a b", "waits for a b"]


def test_where_vllm_does_not_say_when_it_is_not_done(utils: ModuleType) -> None:
    compat.while_engine_core_loads(lambda: pytest.fail("nothing is waited for"))
    assert not hasattr(utils, "wait_for_engine_startup")
