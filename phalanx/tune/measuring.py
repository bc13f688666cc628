"""Serves a candidate, gives it the work, and measures: start-up, throughput, tail and memory.

A candidate that does not start, loses a rank or fails items is measured as well: as one that cannot be used, and why.
"""

import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from engines.contract.tuned import STEP_TOKENS, graphs_up_to, sequence_arguments
from phalanx.client import Client, PhalanxError
from phalanx.generate.errors import JobError
from phalanx.generate.local import LocalService
from phalanx.ranks_table import NoGatewayError, fetch_ranks
from phalanx.service_flags import DASHES
from phalanx.tune.budget import choose_items
from phalanx.tune.memory import memory_bytes
from phalanx.tune.reporter import Reporter
from phalanx.tune.request import TuneRequest
from phalanx.tune.search import ROUNDS
from phalanx.tune.sweep import Sweep
from phalanx.tune.tiles import NoTiles, TileFolder, missing_tiles
from phalanx.tune.trials import Candidate, Facts, Round, Trial

WARM_UP = 0  # the number of the round that does not count
PATIENCE = 10  # times as long as the baseline took: then a round, or a start, is given up
LEAST_PATIENCE_S = 60.0
API_KEY = "PHALANX_API_KEY"


class CandidateFailed(Exception):
    """It cannot be used. The message says why."""


def engine_arguments(candidate: Candidate, device: str) -> dict[str, Any]:  # Any: the engine's argument values
    """What a candidate changes, by the engine's names."""
    sequences = {}
    if candidate.sequences is not None:
        sequences = sequence_arguments(candidate.sequences, device, candidate.graph_tokens)
    return sequences | ({} if candidate.step_tokens is None else {STEP_TOKENS: candidate.step_tokens})


class Measuring:
    """Measures candidates one after another. `items` of a round are settled with the first, unless they were given.
    `places` is how many ranks there are unless several share a GPU."""

    def __init__(
        self,
        request: TuneRequest,
        device: str,
        environ: Mapping[str, str],
        folder: Path,
        items: int | None,
        tiles: TileFolder | None,
        reporter: Reporter,
        places: int,
    ) -> None:
        self.items = items
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
                self._run(service.url, trial, len(former.rounds) if former else 0, baseline)
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
        self._reporter.stage(f"{candidate.words}: starting")
        self._logs = self._folder / re.sub(r"\W+", "-", candidate.words)
        shutil.rmtree(self._logs, ignore_errors=True)  # of a former start: what is read there is this one's
        tiles = self._tiles.variables if candidate.tiles and self._tiles is not None else {}
        return LocalService(
            self._folder,
            self._request.model,
            self._flags(candidate, baseline),
            lambda sentence: self._reporter.say(sentence) if baseline is None else None,
            lambda sentence: self._reporter.stage(f"{candidate.words}: {sentence}"),
            {**self._environ, **tiles},
            with_all_ranks=True,
        )

    def _flags(self, candidate: Candidate, baseline: Trial | None) -> tuple[str, ...]:
        """The user's own, and after them what the candidate changes: the last one counts."""
        flags = self._request.serve_flags
        end = flags.index(DASHES) if DASHES in flags else len(flags)
        arguments = self._request.settings.engine_args | engine_arguments(candidate, self._device)
        own = ["--no-tuned", "--log-dir", str(self._logs)]
        own += ["--engine-args", msgspec.json.encode(arguments).decode()]
        if candidate.expert_parallel is not None:
            own.append("--expert-parallel" if candidate.expert_parallel else "--no-expert-parallel")
        if candidate.ranks_per_gpu is not None:
            many = candidate.ranks_per_gpu
            own += ["--ranks-per-gpu", str(many), "--dp-size", str(many * self._places)]
        if baseline is not None:
            own += ["--start-timeout-s", f"{_patience_s(baseline.start_s):.0f}"]
        return (*flags[:end], *own, *flags[end:])

    def _run(self, url: str, trial: Trial, rounds: int, baseline: Trial | None) -> None:
        trial.facts = self._facts(url, trial.candidate)
        fill = trial.facts.sequences * trial.facts.ranks
        timeout_s = None if baseline is None else _patience_s([one.seconds for one in baseline.rounds])
        with Client(url, api_key=self._api_key) as client:
            self._reporter.stage(f"{trial.candidate.words}: warming up")
            warm_up = self._round(client, WARM_UP, min(fill, self.items or fill), timeout_s)
            if self.items is None:
                self.items = choose_items(fill, warm_up.seconds, self._request.budget_s)
            for number in range(1, ROUNDS + 1):
                self._reporter.stage(f"{trial.candidate.words}: round {number} of {ROUNDS}, {self.items} items")
                trial.rounds.append(self._round(client, rounds + number, self.items, timeout_s))
        trial.memory_bytes = memory_bytes(self._standing_ranks(url))

    def _round(self, client: Client, number: int, count: int, timeout_s: float | None) -> Round:
        """Items that are refused for what they are would be refused by every candidate, and count for none."""
        workload, failed, why = self._request.workload, 0, ""
        options: dict[str, Any] = {} if timeout_s is None else {"timeout_s": timeout_s}  # Any: as the client types them
        items = workload.items(number, count)
        began = time.monotonic()
        with client.generate(items, sampling_params=workload.sampling_params, **options) as results:
            for result in results:
                if not result.ok:
                    why = result.error.message if result.error else result.status
                    failed += result.error is None or result.error.retryable
        seconds = time.monotonic() - began
        summary = results.summary
        if failed or summary is None or summary.stats is None or not summary.request_counts.ok:
            raise CandidateFailed(f"{failed or count} of {count} items failed, the last because: {why}")
        tail_s = float(summary.stats["tail_s"])
        return Round(seconds=seconds, output_tokens=summary.usage.completion_tokens, tail_s=tail_s)

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
