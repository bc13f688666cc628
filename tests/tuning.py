"""`phalanx tune` as a user runs it, on simulated ranks."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.service import COMMAND, DEADLINE_S


class Tuning:
    """The command in a folder of its own, for one rank with these engine arguments."""

    def __init__(self, folder: Path, **engine_args: Any) -> None:
        self.folder = folder
        self.tuned = folder / "tuned"
        self._said = folder / "said.txt"
        self._engine = ["--engine", "simulated", "--engine-args", json.dumps(engine_args)]

    @property
    def said(self) -> str:
        """What the last one has printed on stderr."""
        return self._said.read_text()

    def start(
        self,
        *flags: str,
        service: tuple[str, ...] = (),
        log: Path | None = None,
        after: str = "",
        operators: Mapping[str, str] = {},
    ) -> subprocess.Popen[str]:
        """With a result as JSON; after something that a shell does first; with the operator's variables."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PHALANX_")}
        variables |= operators
        command = [COMMAND, "tune", "any/model", "--dp-size", "1", "--tuned-dir", str(self.tuned), "--json"]
        command += ["--output-tokens", "4", *flags, "--", *self._engine, *service]
        if after:
            command = ["/bin/sh", "-c", f'{after}; exec "$@"', "sh", *command]
        with (log or self._said).open("w") as said:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )

    def refused(self, *flags: str, after: str = "") -> tuple[int, str]:
        """Beside another one, or after something that a shell did: its exit code, and what it says."""
        log = self.folder / "refused.txt"
        process = self.start(*flags, log=log, after=after)
        process.communicate(timeout=DEADLINE_S)
        return process.returncode, log.read_text()

    def finish(self, *flags: str, service: tuple[str, ...] = (), operators: Mapping[str, str] = {}) -> dict[str, Any]:
        """Until it has done what it can. Its result."""
        process = self.start(*flags, service=service, operators=operators)
        out, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, self.said
        found: dict[str, Any] = json.loads(out)
        return found
