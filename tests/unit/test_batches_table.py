"""`phalanx batches list` and `show`: detached batches as a person reads them."""

import pytest

from phalanx.batches_table import print_batch, print_batches
from phalanx.client import BatchInfo, Counts

RUNNING = BatchInfo(
    id="batchgen-1",
    status="in_progress",
    created_at=1_790_000_000,
    model="hub/[name]",
    request_counts=Counts(total=5000, ok=1200, error=3, timeout=2),
    tokens_per_s=1234.5,
    predicted_s_left=3725,
    metadata={"who": "[red]"},
)
HELD = BatchInfo(id="batchgen-2", status="held", created_at=1_790_000_000, reason="it serves [another] model")


def test_a_batch_is_one_line_and_its_reason_another(capsys: pytest.CaptureFixture[str]) -> None:
    print_batches([RUNNING, HELD])
    heading, running, held, reason = capsys.readouterr().out.splitlines()
    assert heading.split()[:2] == ["ID", "STATUS"]
    assert running.split()[-8:] == ["5,000", "1,200", "5", "3,795", "1,234", "1h", "02m", "hub/[name]"]
    assert held.split()[:2] == ["batchgen-2", "held"]
    assert reason == "batchgen-2: it serves [another] model"


def test_all_that_is_known_of_a_batch_is_shown_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    print_batch(RUNNING)
    shown = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert shown["items"].strip() == "5,000: 1,200 ok, 3 error, 0 cancelled, 2 timeout, 3,795 left"
    assert shown["metadata"].strip() == "{'who': '[red]'}"
    assert "reason" not in shown and "ended" not in shown
