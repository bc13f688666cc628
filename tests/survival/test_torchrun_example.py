"""The program in examples/torchrun, run as its README says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engines.host.ports import free_port_run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
PROGRAM = Path(__file__).parents[2] / "examples" / "torchrun" / "batches.py"


def test_all_workers_generate_what_the_first_was_asked_for(dense_model: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    ran = subprocess.run(
        [*torchrun, "--master-port", str(free_port_run(1)), str(PROGRAM), str(dense_model)],
        cwd=tmp_path,
        env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    said = [line for line in ran.stdout.splitlines() if " -> " in line]
    assert [line.partition(" -> ")[0] for line in said] == [
        "'The capital of France is'",
        "'One, two, three,'",
        "'Hello, my name is'",
    ]
    assert "weights in all workers: " in ran.stdout
