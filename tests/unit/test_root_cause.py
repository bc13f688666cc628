"""What a failed start's log is taken to say. The excerpts in failed_starts/ are of vLLM 0.32, with fewer frames."""

from pathlib import Path

import pytest

from app.ranks.root_cause import LONGEST_CAUSE, RootCause, root_cause

LOGS = Path(__file__).with_name("failed_starts")
PORT = (
    "ValueError: VLLM_PORT 'tcp://10.0.0.1:8000' appears to be a URI. This may be caused by a Kubernetes service "
    "discovery issue,check the warning in: https://docs.vllm.ai/en/latest/configuration/env_vars.html"
)
NO_WEIGHTS = "RuntimeError: Cannot find any model weights with `/models/noweights`"
FRAME = '  File "x.py", line 1, in work\n    do()\n'


def traceback(error: str) -> str:
    return f"Traceback (most recent call last):\n{FRAME}{error}\n"


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("worker.txt", PORT),
        ("two_workers.txt", NO_WEIGHTS),
        ("running_worker.txt", "ValueError: No common block size for 7 (CPU_ATTN: [MultipleOf(32)])."),
        ("crashed_worker.txt", "Worker proc VllmWorker-0 died unexpectedly (exit code: -11)"),
        ("json.txt", NO_WEIGHTS),
    ],
)
def test_the_process_that_failed_first_is_to_blame(log: str, cause: str) -> None:
    assert root_cause((LOGS / log).read_text()) == RootCause(cause, is_certain=True)


def test_a_log_without_errors_has_no_cause() -> None:
    assert root_cause("") is None
    assert root_cause("INFO 11-26 20:52:20 [model.py:733] Resolved architecture\n{not JSON\n[1]\n") is None


def test_an_exception_that_led_to_others_is_named_first() -> None:
    cause = "The above exception was the direct cause of the following exception:"
    context = "During handling of the above exception, another exception occurred:"
    parts = [traceback("KeyError: 'lm_head'"), cause, traceback("a.b.LoadError: no such layer"), context]
    log = "Process EngineCore:\n" + "\n".join([*parts, traceback("RuntimeError: loading failed")])
    said = "KeyError: 'lm_head'; this led to RuntimeError: loading failed"
    assert root_cause(log) == RootCause(said, is_certain=True)


def test_a_message_of_several_lines_is_read_to_its_end() -> None:
    said = "ValidationError: 1 validation error for Config\n  Value error, too long [type=value_error]"
    expected = "ValidationError: 1 validation error for Config Value error, too long [type=value_error]"
    assert root_cause(traceback(said) + "INFO go on\n") == RootCause(expected, is_certain=False)


def test_lines_of_other_processes_between_a_tracebacks_own_are_passed_over() -> None:
    worker, other = "(Worker pid=1) ERROR 11-26 20:52:36 [a.py:1] ", "(Worker pid=2) ERROR 11-26 20:52:36 [a.py:1] "
    own = [f"{worker}{line}" for line in ("WorkerProc failed to start.", *traceback("ValueError: mine").splitlines())]
    lines = [line for pair in zip(own, [f"{other}KeyError: theirs"] * len(own), strict=True) for line in pair]
    assert root_cause("\n".join(lines)) == RootCause("ValueError: mine", is_certain=True)
    plain = traceback("").rstrip("\n") + f"\n{other}what\nValueError: mine\n"
    assert root_cause(plain) == RootCause("ValueError: mine", is_certain=False)


def test_a_traceback_that_nobody_gave_up_for_counts_less() -> None:
    plugin = "ERROR 11-26 20:52:36 [plugins.py:1] a plugin could not be loaded\n" + traceback("ImportError: no x")
    assert root_cause(plugin) == RootCause("ImportError: no x", is_certain=False)
    log = plugin + "Process EngineCore:\n" + traceback("torch.OutOfMemoryError: CUDA out of memory")
    assert root_cause(log) == RootCause("torch.OutOfMemoryError: CUDA out of memory", is_certain=True)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("(Worker pid=1) ERROR 11-26 20:52:36 [a.py:1] no driver", "no driver"),
        ("Fatal Python error: Segmentation fault", "Fatal Python error: Segmentation fault"),
        ("terminate called after throwing an instance of 'c10::Error'",) * 2,
        ('{"event":"no driver","level":"error","pid":1}', "no driver"),
        ("\x1b[31mERROR 11-26 20:52:36 [a.py:1] no driver\x1b[0m", "no driver"),
    ],
)
def test_without_a_traceback_an_error_is_what_there_is(line: str, said: str) -> None:
    assert root_cause(f"INFO go on\n{line}\nERROR 11-26 20:52:37 [b.py:1] later\n") == RootCause(said, is_certain=False)


def test_a_cause_has_a_bounded_length() -> None:
    cause = root_cause(traceback("ValueError: " + "x" * 10_000))
    assert cause is not None
    assert len(cause.text) == LONGEST_CAUSE
