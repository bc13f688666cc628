"""A start of real vLLM that fails says why: its worker's error, which its other processes only pass on."""

import shutil
from pathlib import Path

import pytest

from tests.service import START_DEADLINE_S, starting

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_a_model_without_weights_ends_the_service_with_its_workers_error(dense_model: Path, tmp_path: Path) -> None:
    shutil.copytree(dense_model, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    flags = (str(tmp_path), "--enforce-eager", "--restart-backoff-s", "10ms")
    with starting(*flags, engine="vllm", dp_size=1) as service:
        assert service.wait(START_DEADLINE_S) == 1
        cause = f"RuntimeError: Cannot find any model weights with `{tmp_path}`"
        log = service.folder / "state/phalanx/logs/0/rank-0.log"
        assert service.log.endswith(f"\nphalanx: rank 0 could not start: {cause}\n  its log is {log}\n")
        assert [fact["reason"] for fact in service.facts("group_restarting")] == [cause] * 2
