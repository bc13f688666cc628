"""Serves a candidate, gives it the work, and measures: start-up, throughput, tail and memory.

A candidate that does not start, loses a rank or fails items is measured as well: as one that cannot be used, and why.
"""

import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from app.settings.declaration import flag
from engines.contract.tuned import STEP_TOKENS, graphs_up_to, sequence_arguments
from phalanx.client import Client, PhalanxError
from phalanx.generate.errors import JobError, ServiceProblem
from phalanx.generate.local import LocalService
from phalanx.ranks_table import NoGatewayError, fetch_ranks
from phalanx.service_flags import DASHES
from phalanx.tune.budget import choose_fills
from phalanx.tune.memory import memory_bytes
from phalanx.tune.reporter import Reporter
from phalanx.tune.request import UNBOUNDED, TuneRequest
from phalanx.tune.rounds import CandidateFailed, Work, items_of_steady
from phalanx.tune.search import BASELINE
from phalanx.tune.sweep import Sweep
from phalanx.tune.tiles import NoTiles, TileFolder, missing_tiles
from phalanx.tune.trials import ROUNDS, Candidate, Facts, Trial

PATIENCE = 10  # times as long as the baseline took: then a round, or a start, is given up
LEAST_PATIENCE_S = 60.0
API_KEY = "PHALANX_API_KEY"
NO_PATIENCE = ("--breaker-failures", "1")  # a candidate that loses a rank is none


def engine_arguments(candidate: Candidate, device: str) -> dict[str, Any]:  # Any: the engine's argument values
    """What a candidate changes, by the engine's names."""
    sequences = {}
    if candidate.sequences is not None:
        sequences = sequence_arguments(candidate.sequences, device, candidate.graph_tokens)
    return sequences | ({} if candidate.step_tokens is None else {STEP_TOKENS: candidate.step_tokens})


class Measuring:
    """Measures candidates one after another. How often all sequences are filled in a round, `fills`, is settled with
    the first, unless the user says how many items a round has. `places` is how many ranks there are unless several
    share a GPU."""

    def __init__(
        self,
        request: TuneRequest,
        device: str,
        environ: Mapping[str, str],
        folder: Path,
        fills: int | None,
        tiles: TileFolder | None,
        reporter: Reporter,
        places: int,
    ) -> None:
        self.fills = fills
        self._places = places
        self._request = request
        self._device = device
        self._environ = environ
        self._api_key = environ.get(API_KEY)
        self._folder = self._logs = folder
        self._tiles = tiles
        self._reporter = reporter

    def measure(self, candidate: Candidate, sweep: Sweep) -> Trial:
        """One start more of a candidate. Raises JobError when the very first, which is the baseline, fails."""
        trial, former = Trial(candidate=candidate), sweep.of(candidate)
        baseline = sweep.trials[0] if sweep.trials else None
        began = time.monotonic()
        try:
            if candidate.tiles and former is None:
                self._make_tiles(sweep.of(replace(candidate, tiles=False)))
            with self._service(candidate, baseline) as service:
                trial.start_s = [time.monotonic() - began]
                self._measure(service, trial, former, baseline)
        except (JobError, CandidateFailed, PhalanxError, NoGatewayError, NoTiles) as error:
            if baseline is None:
                raise error if isinstance(error, JobError) else JobError(str(error)) from None
            trial.failure = str(error)
        trial.took_s = [time.monotonic() - began]
        return trial

    def _make_tiles(self, base: Trial | None) -> None:
        """For how experts lie in what the candidate is based on."""
        if self._tiles is not None and base is not None and base.facts is not None:
            self._reporter.stage("measuring tiles of fused MoE")
            self._tiles.fill(base.facts.missing_tiles)

    def _service(self, candidate: Candidate, baseline: Trial | None) -> LocalService:
        self._stage(candidate)("starting")
        self._logs = self._folder / re.sub(r"\W+", "-", candidate.words)
        shutil.rmtree(self._logs, ignore_errors=True)  # of a former start: what is read there is this one's
        tiles = self._tiles.variables if candidate.tiles and self._tiles is not None else {}
        return LocalService(
            self._folder,
            self._request.model,
            self._flags(candidate, baseline),
            lambda sentence: self._reporter.say(sentence) if baseline is None else None,
            self._stage(candidate),
            {**self._environ, **tiles},
            with_all_ranks=True,
        )

    def _flags(self, candidate: Candidate, baseline: Trial | None) -> tuple[str, ...]:
        """The user's own, and after them what the candidate changes: the last one counts."""
        flags = self._request.serve_flags
        end = flags.index(DASHES) if DASHES in flags else len(flags)
        arguments = self._request.settings.engine_args | engine_arguments(candidate, self._device)
        own = ["--no-tuned", "--log-dir", str(self._logs), *NO_PATIENCE]
        own += [part for name, value in UNBOUNDED.items() for part in (flag(name), value)]
        own += ["--engine-args", msgspec.json.encode(arguments).decode()]
        if candidate.expert_parallel is not None:
            own.append("--expert-parallel" if candidate.expert_parallel else "--no-expert-parallel")
        if candidate.ranks_per_gpu is not None:
            many = candidate.ranks_per_gpu
            own += ["--ranks-per-gpu", str(many), "--dp-size", str(many * self._places)]
        if baseline is not None:
            own += ["--start-timeout-s", f"{_patience_s(baseline.start_s):.0f}"]
        return (*flags[:end], *own, *flags[end:])

    def _measure(self, service: LocalService, trial: Trial, former: Trial | None, baseline: Trial | None) -> None:
        trial.facts = self._facts(service.url, trial.candidate)
        timeout_s = None if baseline is None else _patience_s([baseline.rounds_s])
        starts = len(former.tails_s) if former else 0
        with Client(service.url, api_key=self._api_key) as client:
            metrics = partial(service.metrics, self._api_key)
            work = Work(self._request.workload, client, metrics, self._stage(trial.candidate), timeout_s)
            try:
                self._run(work, trial, starts, trial.facts.sequences * trial.facts.ranks)
            except (CandidateFailed, PhalanxError, ServiceProblem):
                service.check()  # what became of it says more than what became of the batch
                with suppress(NoGatewayError):
                    self._standing_ranks(service.url)
                raise
        trial.memory_bytes = memory_bytes(self._standing_ranks(service.url))

    def _run(self, work: Work, trial: Trial, starts: int, fill: int) -> None:
        """After so many batches in former starts. `fill` sequences run at once."""
        if (items := self._request.items) is not None:
            self._say_repetition(trial.candidate, starts, (1 + ROUNDS) * items)
            work.warm_up(min(fill, items))
            work.whole(trial, starts, items)
            return
        if self.fills is None:
            self.fills = choose_fills(work.warm_up(fill), self._request.budget_s)
        self._say_repetition(trial.candidate, starts, items_of_steady(fill, self.fills * fill))
        work.steady(trial, starts, fill, self.fills * fill)

    def _say_repetition(self, candidate: Candidate, starts: int, count: int) -> None:
        """Once in a sweep."""
        distinct = self._request.workload.distinct
        if distinct is not None and distinct < count and candidate == BASELINE and not starts:
            self._reporter.say(
                f"{distinct:,} prompts are given in turn, {count:,} in all of a start: a prefix cache may answer those "
                "that come again, which it cannot do for new ones; give a file with more of them"
            )

    def _stage(self, candidate: Candidate) -> Callable[[str], None]:
        return lambda sentence: self._reporter.stage(f"{candidate.words}: {sentence}")

    def _standing_ranks(self, url: str) -> list[dict[str, Any]]:  # Any: the gateway's JSON
        """All ranks. Raises CandidateFailed when one was lost meanwhile."""
        ranks = fetch_ranks(url, self._api_key).ranks
        for rank in ranks:
            if rank["restarts"] or rank["state"] != "ready":
                raise CandidateFailed(f"rank {rank['rank']} was lost: {rank['last_error']}")
        return ranks

    def _facts(self, url: str, candidate: Candidate) -> Facts:
        ranks = self._standing_ranks(url)
        settings = self._request.settings
        has_graphs = self._device == "cuda" and not settings.enforce_eager
        return Facts(
            ranks=len(ranks),
            group_kind=ranks[0]["group_kind"],
            expert_parallel=bool(ranks[0]["expert_parallel"]),
            ranks_per_gpu=(candidate.ranks_per_gpu or settings.ranks_per_gpu) if self._device == "cuda" else None,
            sequences=ranks[0]["max_num_seqs"],
            step_tokens=ranks[0]["max_num_batched_tokens"],
            graph_tokens=(candidate.graph_tokens or graphs_up_to(ranks[0]["max_num_seqs"])) if has_graphs else None,
            missing_tiles=missing_tiles(Path(ranks[0]["log_file"])) if ranks[0]["log_file"] else [],
        )


def _patience_s(took_s: list[float]) -> float:
    return max(LEAST_PATIENCE_S, PATIENCE * max(took_s, default=0.0))
