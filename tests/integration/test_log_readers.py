"""Whoever reads a process's log may stop, as when a disk is full: the process goes on, and counts what was lost."""

import json
import os
import subprocess
import sys

WRITER = """
import sys, time
from engines.logs import write_stderr
began = time.monotonic()
for number in range(5000):
    write_stderr("x" * 100 + "\\n")
print(time.monotonic() - began, flush=True)
sys.stdin.readline()
write_stderr("after\\n")
"""


def test_a_reader_that_stops_does_not_stop_the_writer() -> None:
    command = [sys.executable, "-c", WRITER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as writer:
        assert writer.stdout is not None and writer.stderr is not None and writer.stdin is not None
        assert float(writer.stdout.readline()) < 5
        received = os.read(writer.stderr.fileno(), 2**20)
        writer.stdin.write(b"\n")
        writer.stdin.close()
        received += writer.stderr.read()
    *lines, notice, last = received.decode().splitlines()
    assert last == "after"
    lost = json.loads(notice)
    assert lost["event"] == "log_lines_lost"
    whole = [line for line in lines if line]
    assert set(whole[:-1]) == {"x" * 100}  # the last one may be torn
    assert 0 <= len(whole) + lost["count"] - 5000 <= 1
