"""How exceptions are shown in logs: what kind, and where, and of their messages only the harmless ones."""

import re
from pathlib import Path

import pytest

from engines.failures import kind, report, summary

PROMPT = "a prompt"
HIDDEN = "(message withheld: --log-prompts shows it)"


class OurError(Exception):
    """Of a module that is no builtin."""


def lose() -> None:
    try:
        {}[PROMPT]
    except KeyError as error:
        raise OurError(PROMPT) from error


def caught(function: object) -> BaseException:
    with pytest.raises(BaseException) as raised:
        function()  # type: ignore[operator]  # it is a function
    return raised.value


def test_a_report_has_all_frames_and_no_value() -> None:
    text = report(caught(lose), with_message=False)
    assert PROMPT not in text
    assert text.index("KeyError (message withheld") < text.index("This led to:") < text.index("OurError (message")
    assert text.count("in lose") == 2


def test_whoever_asks_for_prompts_gets_the_messages() -> None:
    assert report(caught(lose), with_message=True).count(PROMPT) == 2


def test_what_was_suppressed_stays_so() -> None:
    def fail() -> None:
        try:
            lose()
        except OurError:
            raise ValueError(PROMPT) from None

    assert "OurError" not in report(caught(fail), with_message=False)


def test_every_part_of_a_group_is_reported() -> None:
    def fail() -> None:
        raise ExceptionGroup(PROMPT, [caught(lose), OSError(5, "disk")])  # type: ignore[list-item]  # all are Exceptions

    text = report(caught(fail), with_message=False)
    assert "OurError (message withheld" in text
    assert "OSError: [Errno 5] disk" in text
    assert PROMPT not in text


def test_a_chain_that_bites_its_tail_comes_to_an_end() -> None:
    first, second = ValueError(1), ValueError(2)
    first.__cause__, second.__cause__ = second, first
    assert report(first, with_message=False).count("Traceback") == 8


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (caught(lambda: Path("/none").read_text()), "FileNotFoundError: [Errno 2] No such file or directory: '/none'"),
        (caught(lambda: "x".nothing), "AttributeError: 'str' object has no attribute 'nothing'"),  # type: ignore[attr-defined]  # that is the point
        (ModuleNotFoundError("No module named 'x'"), "ModuleNotFoundError: No module named 'x'"),
        (ValueError(PROMPT), f"ValueError {HIDDEN}"),
        (
            UnicodeEncodeError("utf-8", PROMPT, 0, 1, "x"),
            f"UnicodeEncodeError {HIDDEN}",
        ),
        (ValueError(), "ValueError"),
        (OurError(PROMPT), f"{__name__}.OurError {HIDDEN}"),
    ],
)
def test_messages_about_the_system_are_shown_and_those_about_values_are_not(error: BaseException, shown: str) -> None:
    assert kind(error, with_message=False) == shown


def test_a_summary_is_one_line_with_the_place() -> None:
    error = caught(lose)
    text = summary(error, with_message=False)
    assert re.search(r" in lose \(test_failures\.py:\d+\)$", text)
    assert "\n" not in summary(ValueError("two\nlines"), with_message=True)
