"""A start of real vLLM that fails says why: its worker's error, which its other processes only pass on."""

import shutil
from pathlib import Path

import pytest

from tests.service import START_DEADLINE_S, STAYS_DOWN, starting, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_a_model_without_weights_is_reported_with_its_workers_error(dense_model: Path, tmp_path: Path) -> None:
    """One start is enough for that. That a service ends after the second one is shown by tests/integration."""
    shutil.copytree(dense_model, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    with starting(str(tmp_path), "--enforce-eager", *STAYS_DOWN, engine="vllm", dp_size=1) as service:
        service.errors_expected = True
        until(lambda: service.facts("group_restarting"), "it does not fail", START_DEADLINE_S)
        cause = f"RuntimeError: Cannot find any model weights with `{tmp_path}`"
        assert [fact["reason"] for fact in service.facts("group_restarting")] == [cause]
        assert cause in service.health()["reason"]
        assert [rank["last_error"] for rank in service.ranks()] == [cause]
