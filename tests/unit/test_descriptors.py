"""The soft limit of open files is raised as far as it must, in a process of its own: a limit cannot be given back."""

import subprocess
import sys

import pytest

from app.http.descriptors import OWN

CODE = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from app.http.descriptors import room_for
print(room_for({asked}), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "asked", "fits", "raised"),
    [
        (1024, 4000, 100, 100, 1024),  # there is room already
        (1024, 4000, 2000, 2000, 2000 + OWN),
        (1024, 2000, 10_000, 2000 - OWN, 2000),  # the hard limit is too low
        (256, 400, 10_000, 1, 400),
    ],
)
def test_room_is_made_up_to_the_hard_limit(soft: int, hard: int, asked: int, fits: int, raised: int) -> None:
    code = CODE.format(soft=soft, hard=hard, asked=asked)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert [int(word) for word in done.stdout.split()] == [fits, raised, hard]
