"""The files beside the output: what survives a kill in the middle of a write, and who may use them."""

from pathlib import Path

import pytest

from phalanx.generate.errors import UsageProblem
from phalanx.generate.job import Job, new_key, read_job, write_job
from phalanx.generate.parameters import Parameters
from phalanx.generate.spool import Entry, Spool, Totals


def entry(seq: int, row: int, *, batch: int = 1, text: str = "x") -> Entry:
    return Entry(batch, seq, row, "ok", [text], ["stop"], 3, 5)


def filled(path: Path, *entries: Entry) -> bytes:
    spool = Spool(path)
    spool.recover(1)
    for each in entries:
        spool.append(each)
    spool.close()
    return path.read_bytes()


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_half_written_line_is_cut_off_and_asked_for_again(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "spool"
    content = filled(path, entry(1, 3), entry(2, 1), entry(3, 2))
    whole = content[: content.rindex(b"\n", 0, -1) + 1]
    path.write_bytes(content[:-cut])
    spool = Spool(path)
    spool.recover(1)
    assert (spool.last_seq, spool.totals, path.read_bytes()) == (2, Totals(2, 0, 6, 10), whole)
    spool.append(entry(3, 2, text="again"))
    found = [spool.read(row) for row in (1, 2, 3, 4)]
    assert [each.texts if each else None for each in found] == [["x"], ["again"], ["x"], None]
    spool.close()


def test_what_follows_a_broken_line_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    content = filled(path, entry(1, 1), entry(2, 2), entry(3, 3))
    first, second, third = content.splitlines(keepends=True)
    path.write_bytes(first + b"\0" * (len(second) - 1) + b"\n" + third)
    spool = Spool(path)
    spool.recover(1)
    assert (spool.last_seq, path.read_bytes()) == (1, first)
    spool.close()


def test_seqs_are_of_one_batch_and_the_first_result_of_a_row_counts(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    filled(path, entry(7, 1, text="first"), entry(8, 2))
    spool = Spool(path)
    spool.recover(2)
    assert spool.last_seq == 0
    assert not spool.append(entry(1, 1, batch=2, text="second"))
    assert spool.append(entry(2, 3, batch=2))
    first = spool.read(1)
    assert first is not None and first.texts == ["first"]
    assert (spool.totals.results, spool.last_seq) == (3, 2)
    spool.close()


def test_two_commands_do_not_share_a_spool(tmp_path: Path) -> None:
    held = Spool(tmp_path / "spool")
    with pytest.raises(UsageProblem, match="at work"):
        Spool(tmp_path / "spool")
    held.close()
    Spool(tmp_path / "spool").close()


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "job"
    assert read_job(path) is None
    job = Job(
        digest="d", parameters=Parameters(input_format="csv", sampling_params={"n": 2}), idempotency_key=new_key()
    )
    write_job(path, job)
    assert read_job(path) == job
    path.write_text("{}")
    with pytest.raises(UsageProblem, match="--restart"):
        read_job(path)
