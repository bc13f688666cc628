"""What a failed start is judged to be after the ranks' logs."""

from pathlib import Path

import pytest

from app.ranks.events import Loss, LossKind
from app.ranks.failed_start import explained
from app.ranks.rank import Rank
from engines.contract.spec import Share
from engines.host.rank_log import LogPart

GAVE_UP = "Process EngineCore:\nTraceback (most recent call last):\n  File\nValueError: no room\n"
ERROR = "ERROR 11-26 20:52:36 [a.py:1] no driver\n"
ENDED = Loss(LossKind.CANNOT_START, "its process ended with exit code 1", rank=0)


def ranks(folder: Path, *logs: str) -> list[Rank]:
    """Ranks that have begun, and have printed this."""
    begun = []
    for number, text in enumerate(logs):
        rank = Rank(number, group=0)
        rank.begin(LogPart(folder / f"rank-{number}.log"), Share())
        (folder / f"rank-{number}.log").write_text(text)
        begun.append(rank)
    return begun


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("RuntimeError: The server socket has failed to bind. EADDRINUSE", LossKind.PORT_CLASH),
        ("OSError: [Errno 98] Address already in use" + "\nmore" * 10_000, LossKind.PORT_CLASH),
        ("CUDA out of memory", LossKind.CANNOT_START),
        ("", LossKind.CANNOT_START),
    ],
)
def test_a_start_that_failed_for_a_taken_port_is_told_apart(text: str, kind: LossKind, tmp_path: Path) -> None:
    assert explained(ENDED, ranks(tmp_path, text, "")).kind is kind


def test_a_port_in_the_log_of_a_group_that_served_is_no_clash(tmp_path: Path) -> None:
    loss = Loss(LossKind.DIED, "it choked", 0)
    assert explained(loss, ranks(tmp_path, "address already in use\n" + GAVE_UP)) is loss


@pytest.mark.parametrize(
    ("logs", "reason", "is_explained"),
    [
        ([GAVE_UP, ""], "ValueError: no room", True),
        (["", GAVE_UP], "rank 1: ValueError: no room", True),  # it was waited for in vain
        ([ERROR, GAVE_UP], "rank 1: ValueError: no room", True),
        ([ERROR, ""], "its process ended with exit code 1; the first error in its log: no driver", False),
        (["all is well\n", ""], "its process ended with exit code 1", False),
    ],
)
def test_the_reason_is_what_a_process_gave_up_for(
    logs: list[str], reason: str, is_explained: bool, tmp_path: Path
) -> None:
    loss = explained(ENDED, ranks(tmp_path, *logs))
    assert (loss.reason, loss.is_explained) == (reason, is_explained)
