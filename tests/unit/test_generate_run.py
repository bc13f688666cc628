"""Runs of `phalanx generate` against a service in memory: what is written, what is sent again, and what is said."""

import signal
from pathlib import Path

import pytest

from phalanx.client import ConnectionFailed
from phalanx.generate.interrupts import Interrupted, interruptible
from phalanx.generate.spool import Spool
from tests.unit.generate_service import FAILS, Command, MemoryService

JOB_FILES = {"out.jsonl.phalanx-job", "out.jsonl.phalanx-results"}


@pytest.fixture
def service() -> MemoryService:
    return MemoryService()


@pytest.fixture
def command(tmp_path: Path, service: MemoryService, monkeypatch: pytest.MonkeyPatch) -> Command:
    command = Command(tmp_path, service, monkeypatch)
    command.write("in.jsonl", *[f'{{"prompt": "p{number}", "id": {number}}}' for number in range(1, 6)])
    return command


def test_rows_come_out_in_their_order_with_their_texts(command: Command) -> None:
    done = command("in.jsonl", "out.jsonl")
    assert done.exit_code == 0
    assert [(row["id"], row["text"]) for row in command.rows("out.jsonl")] == [(n, f"<p{n}>") for n in range(1, 6)]
    assert command.rows("out.jsonl")[0] == {
        "prompt": "p1",
        "id": 1,
        "text": "<p1>",
        "finish_reason": "stop",
        "status": "ok",
        "error": None,
        "prompt_tokens": 3,
        "completion_tokens": 5,
    }
    assert command.files == {"in.jsonl", "out.jsonl"}
    assert "5 rows: 5 ok, 0 failed" in done.stderr


def test_a_bad_row_fails_alone_and_is_named(command: Command, service: MemoryService) -> None:
    command.write("in.jsonl", '{"prompt": "a"}', "{broken", '{"other": 1}', "", f'{{"prompt": "{FAILS}"}}')
    assert command("in.jsonl", "out.jsonl").exit_code == 1
    assert service.sent == [["1", "5"]]
    rows = command.rows("out.jsonl")
    assert [row["status"] for row in rows] == ["ok", "error", "error", "error", "error"]
    assert rows[4]["error"] == "context_length_exceeded: the prompt is too long"
    failures = command.rows("out.jsonl.failures.jsonl")
    assert [(failure["row"], failure["code"]) for failure in failures] == [
        (2, "invalid_row"),
        (3, "invalid_row"),
        (4, "invalid_row"),
        (5, "context_length_exceeded"),
    ]
    assert "line 2" in failures[0]["error"] and failures[0]["input"] == "{broken"
    assert "'prompt'" in failures[1]["error"] and failures[1]["input"] == {"other": 1}


def test_an_input_without_a_good_row_sends_nothing(command: Command, service: MemoryService) -> None:
    command.write("in.jsonl", "{broken", "[]")
    assert command("in.jsonl", "out.jsonl").exit_code == 1
    assert len(command.rows("out.jsonl")) == 2
    command.write("empty.jsonl")
    assert command("empty.jsonl", "nothing.jsonl").exit_code == 0
    assert command.rows("nothing.jsonl") == []
    assert service.batches_sent == {}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("in.jsonl", "out.jsonl", "--prompt-column", "text"), "has no column 'text'; it has: prompt, id"),
        (("in.jsonl", "out.jsonl", "--template", "{id} {x}"), "has no column 'x'; it has: prompt, id"),
        (("in.jsonl", "out.jsonl", "--template", "{"), "character 1"),
        (("in.jsonl", "nowhere/out.jsonl"), "mkdir -p nowhere"),
        (("nothing.jsonl", "out.jsonl"), "does not exist"),
        (("in.jsonl", "in.jsonl"), "is the input, too"),
        (("in.jsonl", "there.jsonl"), "--overwrite"),
        (("in.jsonl", "out.dat"), "--output-format"),
        (("in.jsonl", "out.csv"), "--output-format"),
        (("clash.jsonl", "out.jsonl"), "--prefix"),
        (("in.jsonl", "out.jsonl", "--sampling-params", "[1]"), "--sampling-params"),
        (("in.jsonl", "out.jsonl", "--prompt-column", "a", "--template", "b"), "keep one"),
        (("in.jsonl", "out.jsonl", "--dp-size", "2"), "--local"),
        (("in.jsonl", "-", "--on-interrupt", "leave"), "needs a file"),
    ],
)
def test_a_command_that_cannot_be_is_refused_before_anything_is_sent(
    args: tuple[str, ...], words: str, command: Command, service: MemoryService
) -> None:
    command.write("there.jsonl")
    command.write("clash.jsonl", '{"prompt": "a", "text": "b"}')
    before = command.files
    done = command(*args)
    assert (done.exit_code, service.batches_sent, command.files) == (2, {}, before)
    assert words in done.stderr and "\n" not in done.stderr


def test_columns_that_clash_get_a_prefix(command: Command) -> None:
    command.write("clash.jsonl", '{"prompt": "a", "text": "mine"}')
    assert command("clash.jsonl", "out.jsonl", "--prefix", "new_").exit_code == 0
    (row,) = command.rows("out.jsonl")
    assert (row["text"], row["new_text"]) == ("mine", "<a>")


def test_an_output_is_replaced_only_on_demand(command: Command) -> None:
    assert command("in.jsonl", "out.jsonl").exit_code == 0
    assert command("in.jsonl", "out.jsonl").exit_code == 2
    assert command("in.jsonl", "out.jsonl", "--overwrite").exit_code == 0


def test_what_is_sent_has_the_flags_and_the_chat(command: Command, service: MemoryService) -> None:
    flags = ("--max-tokens", "9", "--stop", "x", "--sampling-params", '{"max_tokens": 1, "min_p": 0.5}')
    assert command("in.jsonl", "out.jsonl", "--system", "Be brief.", "--priority", "3", *flags).exit_code == 0
    assert service.options == [{"priority": 3, "sampling_params": {"max_tokens": 9, "min_p": 0.5, "stop": ["x"]}}]
    assert service.batches_sent["batchgen-1"][0] == {
        "custom_id": "1",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "p1"}],
    }


def test_lines_from_standard_input_to_standard_output(command: Command) -> None:
    done = command("-", "-", "--input-format", "lines", stdin="one\ntwo\n")
    assert done.exit_code == 0
    assert done.stdout.count(b"\n") == 2 and b'"text":"<two>"' in done.stdout
    assert command.files == {"in.jsonl"}


# ---------------------------------------------------------------- going on


def test_a_job_goes_on_after_the_last_result_it_kept(command: Command, service: MemoryService) -> None:
    service.stop, service.stops_after = ConnectionFailed("nobody answers"), 2
    failed = command("in.jsonl", "out.jsonl")
    assert failed.exit_code == 3 and "the same command again goes on" in failed.stderr
    assert command.files == {"in.jsonl"} | JOB_FILES
    assert command("in.jsonl", "out.jsonl").exit_code == 0
    assert (service.asked_after, len(service.batches_sent)) == ([0, 2], 1)
    assert len(command.rows("out.jsonl")) == 5


def test_a_batch_that_the_service_lost_is_sent_again_without_the_rows_that_have_results(
    command: Command, service: MemoryService
) -> None:
    service.stop, service.stops_after = ConnectionFailed("nobody answers"), 2
    assert command("in.jsonl", "out.jsonl").exit_code == 3
    service.batches_sent.clear()
    assert command("in.jsonl", "out.jsonl").exit_code == 0
    assert service.sent == [["1", "2", "3"]]
    assert service.asked_after == [0, 0]
    assert [row["text"] for row in command.rows("out.jsonl")] == [f"<p{n}>" for n in range(1, 6)]


def test_a_job_whose_results_are_all_here_needs_no_service(command: Command, service: MemoryService) -> None:
    service.stop, service.stops_after = ConnectionFailed("nobody answers"), 4
    assert command("in.jsonl", "out.jsonl").exit_code == 3
    spool = command.folder / "out.jsonl.phalanx-results"
    with spool.open("a") as file:
        file.write('[1,5,1,"ok",["late"],["stop"],1,1]\n')
    service.batches_sent.clear()
    assert command("in.jsonl", "out.jsonl").exit_code == 0
    assert (command.rows("out.jsonl")[0]["text"], service.asked_after) == ("late", [0])


def test_a_batch_whose_acceptance_was_lost_is_found_again(command: Command, service: MemoryService) -> None:
    def lose() -> None:
        service.on_submit = lambda: None
        raise ConnectionFailed("the connection broke")

    service.on_submit = lose
    assert command("in.jsonl", "out.jsonl").exit_code == 3
    assert command("in.jsonl", "out.jsonl").exit_code == 0
    assert service.sent == [["1", "2", "3", "4", "5"]]


def test_a_second_command_does_not_disturb_the_first(command: Command) -> None:
    spool = Spool(command.folder / "out.jsonl.phalanx-results")
    done = command("in.jsonl", "out.jsonl")
    assert done.exit_code == 2 and "at work" in done.stderr
    assert command.files == {"in.jsonl", "out.jsonl.phalanx-results"}
    spool.close()


@pytest.mark.parametrize(
    ("change", "words"), [(("--max-tokens", "3"), "sampling-params"), ((), "is not the input it began with")]
)
def test_another_command_does_not_take_up_an_unfinished_job(
    change: tuple[str, ...], words: str, command: Command, service: MemoryService
) -> None:
    service.stop, service.stops_after = ConnectionFailed("nobody answers"), 2
    assert command("in.jsonl", "out.jsonl").exit_code == 3
    if not change:
        command.write("in.jsonl", '{"prompt": "another"}')
    done = command("in.jsonl", "out.jsonl", *change)
    assert done.exit_code == 2 and words in done.stderr and "--restart" in done.stderr
    anew = command("in.jsonl", "out.jsonl", *change, "--restart")
    assert anew.exit_code == 0 and "batchgen-1" in anew.stderr
    assert (len(service.batches_sent), service.cancelled) == (2, [])


def test_an_input_that_changes_meanwhile_is_noticed(command: Command, service: MemoryService) -> None:
    service.on_submit = lambda: command.write("in.jsonl", '{"prompt": "another"}')
    done = command("in.jsonl", "out.jsonl")
    assert done.exit_code == 2 and "was changed" in done.stderr
    assert "out.jsonl" not in command.files


# ---------------------------------------------------------------- interrupts


def interrupt(service: MemoryService, number: int = signal.SIGINT) -> None:
    service.stop, service.stops_after = Interrupted(number), 2


def test_a_signal_that_comes_twice_at_once_is_one() -> None:
    with interruptible():
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_leaves_the_batch(command: Command, service: MemoryService) -> None:
    interrupt(service)
    done = command("in.jsonl", "out.jsonl")
    assert done.exit_code == 130
    assert "batchgen-1 runs on: the same command again goes on" in done.stderr
    assert command("in.jsonl", "out.jsonl").exit_code == 0
    assert (service.cancelled, service.asked_after) == ([], [0, 2])


def test_an_interrupt_cancels_the_batch_on_demand_and_the_next_command_resumes_it(
    command: Command, service: MemoryService
) -> None:
    interrupt(service)
    done = command("in.jsonl", "out.jsonl", "--on-interrupt", "cancel")
    assert done.exit_code == 130 and "batchgen-1 is cancelled" in done.stderr
    assert service.cancelled == ["batchgen-1"]
    assert command("in.jsonl", "out.jsonl").exit_code == 0
    assert (service.resumed, len(service.sent), service.asked_after) == (["batchgen-1"], 1, [0, 2])
    assert len(command.rows("out.jsonl")) == 5


def test_nobody_is_asked_without_a_terminal(command: Command, service: MemoryService) -> None:
    interrupt(service, signal.SIGTERM)
    done = command("in.jsonl", "out.jsonl", "--on-interrupt", "ask")
    assert done.exit_code == 143 and "runs on" in done.stderr


def test_an_interrupt_of_a_job_without_a_file_cancels(command: Command, service: MemoryService) -> None:
    interrupt(service)
    done = command("in.jsonl", "-")
    assert (done.exit_code, done.stdout, service.cancelled) == (130, b"", ["batchgen-1"])
    assert "again" not in done.stderr
