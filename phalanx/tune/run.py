"""What `phalanx tune` does, from the top: look what was measured before, measure on, keep the fastest, say it."""

import datetime
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import click
import msgspec

from app.ranks.devices import allot
from app.ranks.tuned import sharing, site_of
from app.settings.declaration import SettingsError
from app.settings.folders import find_home, tuned_folder
from engines.contract.tuned import Tuned, tuned_file
from phalanx.durable_file import write_durably
from phalanx.generate.errors import ServiceProblem, UsageProblem
from phalanx.generate.interrupts import Interrupted, interruptible
from phalanx.tune.budget import Budget
from phalanx.tune.measuring import API_KEY, Measuring, engine_arguments
from phalanx.tune.reporter import Reporter
from phalanx.tune.request import TuneRequest
from phalanx.tune.search import Number, Space, next_candidate, to_repeat, winner
from phalanx.tune.sweep import Sweep, alone, read_sweep, sweep_file, write_sweep
from phalanx.tune.table import print_trials, shown
from phalanx.tune.tiles import LONGEST_S, SHARE, VARIABLE, TileFolder
from phalanx.tune.trials import Candidate, Trial


def run(request: TuneRequest, environ: Mapping[str, str]) -> int:
    """Measures as long as the budget lasts. The command's exit code. Raises JobError and SettingsError."""
    settings = request.settings
    if settings.node_size > 1:
        raise UsageProblem("one machine is tuned at a time: leave --node-size out")
    if settings.launcher == "ray":
        raise UsageProblem("one machine is tuned at a time, and --launcher is ray: leave it out")
    if settings.api_keys_file is not None and not environ.get(API_KEY):
        raise UsageProblem(f"the service asks for API keys (--api-keys-file): set {API_KEY} to the secret of one")
    environ = {**environ, **find_home(environ).variables}
    folder = tuned_folder(request.settings, environ).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return TuneRun(request, environ, folder).run()
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else (error.strerror or str(error))
        raise ServiceProblem(
            f"--tuned-dir is {folder}, which takes no files ({what}): make room there, or name another folder"
        ) from None


class TuneRun:
    """One run of the command."""

    def __init__(self, request: TuneRequest, environ: Mapping[str, str], folder: Path) -> None:
        allotment = self._allotment = allot(request.settings, environ)
        self._request = request
        self._environ = environ
        self._device = allotment.device
        self._site = site_of(request.settings, allotment.machine, len(allotment.shares))
        self._state = sweep_file(folder, self._site, request.fingerprint(environ))
        self._service_folder = self._state.with_suffix(".service")
        self._kept = tuned_file(folder, self._site)
        self._tiles = self._tile_folder(folder, allotment.shares[0].gpus)
        self._space, self._unshared = self._open_space(environ)
        self._budget = Budget(request.budget_s)
        self._is_complete = False

    def run(self) -> int:
        """Until the search is through, the budget is spent or a signal comes."""
        with alone(self._service_folder), Reporter() as reporter:
            sweep = self._begin(reporter)
            try:
                with interruptible():
                    self._sweep(sweep, reporter)
            except Interrupted as interrupt:
                reporter.say(f"interrupted: {_count(sweep)} is kept, and the same command goes on")
                return interrupt.exit_code
            if self._is_complete and not any(trial.failure for trial in sweep.trials):
                shutil.rmtree(self._service_folder, ignore_errors=True)  # else its logs say more
        self._end(sweep)
        return 0

    def _begin(self, reporter: Reporter) -> Sweep:
        if self._request.is_fresh:
            self._state.unlink(missing_ok=True)
            if self._tiles is not None:
                shutil.rmtree(self._tiles.folder, ignore_errors=True)
        sweep = read_sweep(self._state)
        if sweep is not None:
            reporter.say(f"going on: {_count(sweep)} is there already")
            return sweep
        reporter.say(f"{self._site.model} on {self._site.machine}: {self._request.workload.words}")
        return Sweep(site=self._site, workload=self._request.workload.words)

    def _sweep(self, sweep: Sweep, reporter: Reporter) -> None:
        measuring = Measuring(
            self._request,
            self._device,
            self._environ,
            self._service_folder,
            sweep.fills,
            self._tiles,
            reporter,
            len(self._allotment.shares),
        )
        while (candidate := self._next(sweep.trials)) is not None:
            trial = measuring.measure(candidate, sweep)
            sweep.add(trial)
            sweep.fills = measuring.fills
            sweep.measured_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            write_sweep(self._state, sweep)
            reporter.say(_said(trial))

    def _next(self, trials: list[Trial]) -> Candidate | None:
        """What to measure now; None at the end, or when nothing more fits into the budget."""
        new = next_candidate(self._space, trials)
        if new is not None and (not trials or self._budget.has_room_for_new(trials, new.tiles)):
            return new
        again = to_repeat(trials)
        self._is_complete = new is None and again is None
        return again if again is not None and self._budget.has_room_for(trials) else None

    def _end(self, sweep: Sweep) -> None:
        best, baseline = winner(sweep.trials), sweep.trials[0]
        if best is None:
            raise ServiceProblem("nothing could be measured: the baseline has failed, look at its log")
        tuned = self._tuned(best, baseline, sweep.measured_at)
        write_durably(self._kept, msgspec.json.format(msgspec.json.encode(tuned)))
        if self._request.as_json:
            click.echo(msgspec.json.format(msgspec.json.encode(self._as_json(sweep, best))).decode())
            return
        print_trials(sweep.trials, best)
        for what in self._left_out(baseline):
            click.echo(f"Left out: {what}")
        click.echo(self._conclusion(best, sweep.trials))
        if not self._is_complete:
            click.echo(self._what_is_left(sweep.trials))

    def _what_is_left(self, trials: list[Trial]) -> str:
        new = next_candidate(self._space, trials)
        needed_s = None if new is None else self._budget.never_has_room_s(trials, new.tiles)
        if needed_s is not None:
            return (
                f"The next candidate takes some {needed_s:.0f} s: with a --budget above that the same command goes on."
            )
        return "The budget did not last for all that is worth trying: the same command goes on."

    def _tuned(self, best: Trial, baseline: Trial, measured_at: str) -> Tuned:
        return Tuned(
            site=self._site,
            candidate=best.candidate.words,
            arguments=engine_arguments(best.candidate, self._device),
            expert_parallel=best.candidate.expert_parallel,
            ranks_per_gpu=best.candidate.ranks_per_gpu,
            tiles_folder=str(self._tiles.folder) if best.candidate.tiles and self._tiles else None,
            workload=self._request.workload.words,
            measured_at=measured_at,
            tokens_per_s=round(best.tokens_per_s, 1),
            baseline_tokens_per_s=round(baseline.tokens_per_s, 1),
        )

    def _open_space(self, environ: Mapping[str, str]) -> tuple[Space, str | None]:
        """What is searched; and why not whether ranks should share a GPU, where only that cannot be."""
        space = replace(self._request.space, tiles=self._tiles is not None)
        if Number.RANKS_PER_GPU not in space.numbers or self._device != "cuda":
            return space, None
        try:
            sharing(self._request.settings, self._allotment, 2, environ)
        except SettingsError as error:
            numbers = tuple(number for number in space.numbers if number is not Number.RANKS_PER_GPU)
            return replace(space, numbers=numbers), f"several ranks on a GPU ({error})"
        return space, None

    def _tile_folder(self, folder: Path, gpus: Sequence[str]) -> TileFolder | None:
        """None where there is no GPU, or the user has tiles already."""
        if not gpus or VARIABLE in self._environ:
            return None
        return TileFolder(
            folder=folder / f"{self._site.file_stem}.tiles",
            model=self._request.model,
            revision=self._request.settings.revision,
            gpu=gpus[0],
            seconds=min(LONGEST_S, SHARE * self._request.budget_s),
            environment=self._environ,
        )

    def _as_json(self, sweep: Sweep, best: Trial) -> dict[str, object]:
        return {
            "site": self._site,
            "workload": sweep.workload,
            "items": self._request.items,
            "fills": sweep.fills,
            "is_complete": self._is_complete,
            "left_out": self._left_out(sweep.trials[0]),
            "file": str(self._kept),
            "winner": best.candidate.words,
            "trials": [shown(trial, sweep.trials[0]) for trial in sweep.trials],
        }

    def _left_out(self, baseline: Trial) -> list[str]:
        is_moe = baseline.facts is not None and baseline.facts.expert_parallel
        tiles = "tiles of fused MoE, which are for GPUs" if is_moe and self._device != "cuda" else None
        return [what for what in (tiles, self._unshared) if what is not None]

    def _conclusion(self, best: Trial, trials: Sequence[Trial]) -> str:
        if best is trials[0]:
            return f"\nNothing is clearly faster than what the service chooses by itself.\nKept in {self._kept}"
        has_faster = any(trial.is_usable and trial.tokens_per_s > best.tokens_per_s for trial in trials)
        why = "; what is above it changes more, and is not clearly faster" if has_faster else ""
        return (
            f"\nThe choice is {best.candidate.words}{why}.\nKept in {self._kept}: `phalanx serve` takes it from now on."
        )


def _said(trial: Trial) -> str:
    """A start in a line."""
    if trial.failure is not None:
        return f"{trial.candidate.words}: {trial.failure}"
    rates = ", ".join(f"{rate:,.0f}" for rate in trial.rates)
    return f"{trial.candidate.words}: ready after {trial.mean_start_s:.1f} s, {rates} tokens/s"


def _count(sweep: Sweep) -> str:
    count = len(sweep.trials)
    return f"what was measured of {count} candidate{'' if count == 1 else 's'}"
