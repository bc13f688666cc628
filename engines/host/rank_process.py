"""Starting a rank under its guardian, and ending both."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from engines.contract.spec import FAREWELL, RankSpec, write_spec

SPEC_NAME = "rank.json"
GUARDIAN_GRACE_S = 20.0  # to kill, wait for resource trackers and clean up: much pinned memory takes its time


class RankProcess:
    """A guardian and, below it, a rank. That the guardian has ended means that nothing of the rank is left.

    Unless it was killed. `guardians` are the process numbers of all that live.
    """

    guardians: ClassVar[set[int]] = set()

    def __init__(self, guardian: asyncio.subprocess.Process, lifeline: int) -> None:
        self._guardian = guardian
        self._lifeline: int | None = lifeline
        self._killer: asyncio.TimerHandle | None = None
        self.guardians.add(guardian.pid)

    @classmethod
    async def start(cls, spec: RankSpec, environment: Mapping[str, str]) -> "RankProcess":
        """Spawns the guardian, which leaves the gateway's process group at once: Ctrl-C reaches the gateway alone."""
        spec_path = Path(spec.directory) / SPEC_NAME
        spec_path.parent.mkdir(mode=0o700)
        write_spec(spec, spec_path)
        lifeline_end, lifeline = os.pipe()  # both close-on-exec: no other child keeps the write end open
        try:
            guardian = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # a folder called engines where the user stands must not be picked up
                "-m",
                "engines",
                "guard",
                str(spec_path),
                stdin=lifeline_end,
                env=environment,
            )
        except BaseException:
            os.close(lifeline)
            raise
        finally:
            os.close(lifeline_end)
        return cls(guardian, lifeline)

    @property
    def guardian_pid(self) -> int:
        """The guardian's process number."""
        return self._guardian.pid

    async def wait(self) -> int:
        """Until everything has ended; the rank's exit code, 128 + n when signal n ended it.

        Negative when a signal ended the guardian itself: the rank then ends by itself, a moment later.
        """
        code = await self._guardian.wait()
        self.guardians.discard(self._guardian.pid)
        if self._killer is not None:
            self._killer.cancel()
        self.cut()
        return code

    def cut(self) -> None:
        """Lets go of the lifeline: the guardian kills the rank and cleans up. May be called twice.

        One that has not ended after a while is killed: it may be stopped, or wait for a disk. Its rank follows it.
        """
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                os.write(lifeline, FAREWELL)
            os.close(lifeline)
            if self._guardian.returncode is None:
                self._killer = asyncio.get_running_loop().call_later(GUARDIAN_GRACE_S, self._kill)

    async def end(self) -> None:
        """Cuts the lifeline and waits."""
        self.cut()
        await self.wait()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._guardian.send_signal(signal.SIGKILL)


def describe_exit(code: int) -> str:
    """What `wait` returned, in words."""
    who, number = ("guardian", -code) if code < 0 else ("process", code - 128)
    with contextlib.suppress(ValueError):
        return f"its {who} was ended by {signal.Signals(number).name}"
    return f"its {who} was ended by signal {number}" if code < 0 else f"its process ended with exit code {code}"
