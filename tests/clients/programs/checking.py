"""Runs a program's checks, one after another, and prints a line of JSON for each: its name, outcome and detail.

A program of checks runs in a client's own environment, which has neither pytest nor anything of this project. Its
checks are functions whose names begin with `check_`, and take a Target.
"""

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

PREFIX = "check_"


@dataclass(frozen=True)
class Target:
    """The server, as the test tells it on the command line."""

    base_url: str
    model: str
    api_key: str
    has_keys: bool  # otherwise it takes any
    limited_key: str | None  # a key that soon gets 429, if there is one
    lacks: list[str]  # routes that may be missing

    def needs(self, route: str) -> None:
        """Skips the check if the server may do without this route."""
        if route in self.lacks:
            raise Skipped(f"{self.model} at {self.base_url} has no {route}")


class Skipped(Exception):
    """The check has nothing to look at; the message says why."""


def run_checks(program: Mapping[str, Any]) -> None:
    """Runs all checks of a program, which hands in its globals()."""
    target = Target(**json.loads(sys.argv[1]))
    for name, check in program.items():
        if name.startswith(PREFIX):
            outcome, detail = _outcome(check, target)
            sys.stdout.write(json.dumps({"name": name, "outcome": outcome, "detail": detail}) + "\n")


def _outcome(check: Callable[[Target], None], target: Target) -> tuple[str, str]:
    try:
        check(target)
    except Skipped as reason:
        return "skipped", str(reason)
    except Exception:  # noqa: BLE001  whatever a client raises is a failure of this one check
        return "failed", traceback.format_exc()
    return "passed", ""
