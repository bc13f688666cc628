"""What a person sees of a job: in a narrow terminal, in a wide one, and without one."""

import io
import threading

import pytest
from rich.console import Console

from phalanx.client import ConnectionFailed
from phalanx.generate import progress
from phalanx.generate.progress import Progress
from phalanx.generate.progress_line import Figures, bar_lines, duration
from phalanx.generate.spool import Totals
from tests.unit.generate_service import MemoryResults

FEW = Figures(done=120, total=480, failed=2, items_per_s=12.34, tokens_per_s=456.7, s_left=200.0)
MANY = Figures(done=9_999_999, total=10_000_000, failed=123_456, items_per_s=1e4, tokens_per_s=1e6, s_left=43_400)


def test_one_line_of_80_columns_has_it_all() -> None:
    (line,) = bar_lines(FEW, 80)
    assert len(line) == 80
    bar, rest = line.split("  ", 1)
    assert bar == "━" * (len(bar) // 4) + "─" * (len(bar) - len(bar) // 4)
    assert rest == "25%  120/480 rows  2 failed  12.3 rows/s  457 tok/s  3:20 left"


@pytest.mark.parametrize("figures", [FEW, MANY, Figures(0, 0), Figures(1, 3, standing="held")])
@pytest.mark.parametrize("width", [80, 40, 20])
def test_no_line_is_too_wide_and_nothing_is_left_out(figures: Figures, width: int) -> None:
    lines = bar_lines(figures, width)
    assert all(len(line) <= width for line in lines)
    assert f"{figures.done:,}/{figures.total:,} rows" in "\n".join(lines) or width == 20


def test_a_terminal_without_the_signs_gets_others() -> None:
    (line,) = bar_lines(FEW, 80, is_ascii=True)
    assert line.isascii() and line.startswith("#")


def test_durations_are_read_as_on_a_clock() -> None:
    assert [duration(s) for s in (-1, 7, 200, 43_400)] == ["0:00", "0:07", "3:20", "12:03:20"]


def test_a_log_gets_a_plain_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.01)
    written = threading.Event()

    class Log(io.StringIO):
        def write(self, text: str) -> int:
            if "rows" in text:
                written.set()
            return super().write(text)

    log = Log()
    with Progress(Totals(results=30, failed=1), Console(file=log, width=20)) as shown:
        shown.follow(MemoryResults([], None, None), 60, 2, known=0)
        assert written.wait(10)
    lines = [line for line in log.getvalue().splitlines() if "rows" in line]
    assert lines[0].startswith("phalanx: 32/60 rows, 3 failed") and "\x1b" not in log.getvalue()


def test_what_was_there_before_is_no_speed_and_what_is_waited_for_is_said() -> None:
    totals = Totals(results=10)
    console = Console(file=io.StringIO(), force_terminal=True, width=40, height=10)
    shown = Progress(totals, console)
    shown.follow(MemoryResults([], None, None), 60, 0, known=20)
    totals.results = 29
    shown._render()
    assert shown.mean_tokens_per_s is None
    shown.wait(ConnectionFailed("nobody answers"), 60)
    assert shown._render().plain.endswith("29/60 rows  0 failed\ntrying again: nobody answers")
    totals.results = 30
    shown._render()
    totals.completion_tokens += 100
    assert shown.mean_tokens_per_s


def test_the_terminals_bar_fits_its_width() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=40, height=10)
    with Progress(Totals(results=30), console) as shown:
        shown.follow(MemoryResults([], None, None), 60, 0, known=0)
        console.print(shown._render())
    assert "30/60 rows" in console.file.getvalue()  # type: ignore[attr-defined]  # it is a StringIO
