"""`phalanx batches`: what is said without a gateway, and the exit codes of `wait`."""

import pytest

from phalanx.batches import NOT_COMPLETED, SOME_FAILED, wait_code
from phalanx.cli import main
from phalanx.client import BatchInfo, BatchStatus, Counts

NOBODY = ("--url", "127.0.0.1:1")


@pytest.mark.parametrize(
    "args",
    [
        ("list",),
        ("show", "x"),
        ("results", "x", "--follow"),
        ("cancel", "x", "y"),
        ("delete", "x"),
        ("resume", "x"),
        ("wait", "x"),
    ],
    ids=lambda args: args[0],
)
def test_nobody_there_is_one_sentence_at_once(args: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["batches", *args, *NOBODY])
    out, err = capsys.readouterr()
    assert ended.value.code == 1 and out == "" and err.count("\n") == 1
    assert err.startswith("phalanx: nobody answers at http://127.0.0.1:1 (") and "--url" in err


@pytest.mark.parametrize(
    ("status", "counts", "code"),
    [
        ("completed", Counts(total=2, ok=2), 0),
        ("completed", Counts(total=2, ok=1, error=1), SOME_FAILED),
        ("cancelled", Counts(total=2, ok=2), NOT_COMPLETED),
        ("expired", Counts(total=2, ok=1, timeout=1), NOT_COMPLETED),
        ("failed", Counts(total=2), NOT_COMPLETED),
    ],
)
def test_the_exit_code_says_how_a_batch_ended(status: BatchStatus, counts: Counts, code: int) -> None:
    assert wait_code(BatchInfo(id="x", status=status, created_at=1, request_counts=counts)) == code
