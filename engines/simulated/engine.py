"""A real engine with no model: for load, for chaos, and to see how fast the gateway itself is. Never the default.

It batches continuously, as vLLM does: up to `max_num_seqs` sequences run, each makes one token a step, and a step
takes `step_ms` plus `seq_us` for every running sequence. Steps are virtual: a sequence knows at which step it ends, so
a step costs nothing per token, but for streams. With both times zero every turn of the loop finishes all that waits,
and makes one token for each text that streams.
"""

import asyncio
import heapq
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory

import msgspec

from engines import tasks
from engines.contract.item_errors import ItemError
from engines.contract.protocol import ItemSize, Outcome, PromptKind, RankFacts, Result, Run, RunItem, Stage
from engines.contract.spec import GroupKind, RankSpec
from engines.failures import summary
from engines.rank.engine import Emit, Engine, ReportStage
from engines.simulated.answers import Plan, Planner, answer, size_of
from engines.simulated.arguments import Fault, SimulatedArgs, hold_shared_memory, open_prompts_file, read_args
from engines.simulated.exposition import expose
from engines.simulated.jobs import Job, JobMaker, JobState
from engines.simulated.prompts import VOCAB_SIZE

MAX_LAG_S = 0.25
CHUNKS_BEFORE_CRASH = 3
LAST_CHUNKS_S = 0.05  # for the control thread, which sends what has been emitted


class SimulatedEngine(Engine):
    """Answers with text made from a hash, in the time that the latency model says."""

    def __init__(self, spec: RankSpec, emit: Emit, died: Callable[[str], None]) -> None:
        super().__init__(spec, emit, died)
        self._args = SimulatedArgs()
        self._planner = Planner()
        self._maker = JobMaker(spec.model, self._args, self._planner, emit)
        self._jobs: dict[int, Job] = {}  # by attempt: all that owe a result
        self._waiting: deque[Job] = deque()  # aborted ones stay until their turn
        self._awaiting: set[int] = set()  # of jobs that are made, and whose clients have not taken all
        self._ends: list[tuple[int, int, Job]] = []  # heap: step, attempt, job
        self._streaming: dict[int, Job] = {}  # by attempt: those that run and stream
        self._tokens_held = 0
        self._slow_running = 0
        self._making = self._made = 0.0  # tokens: in each step, by what runs; and so far
        self._next_fault: Fault | None = None
        self._step_due_at = 0.0  # time.monotonic()
        self._timer: asyncio.Handle | None = None
        self._shared_memory: SharedMemory | None = None
        self._tick_guarded = tasks.guarded(self._tick, "step", self._on_failure)
        self._prompts_file: int | None = None  # a descriptor
        self._stopped = False  # hung, dead or closed: no step will ever come

    async def start(self, report: ReportStage) -> RankFacts:
        report(Stage.IMPORTING)
        report(Stage.CONFIGURING)
        self._args = read_args(self.spec)
        self._maker = JobMaker(self.spec.model, self._args, self._planner, self.emit)
        report(Stage.LOADING)
        self._shared_memory = hold_shared_memory(self.spec, self._args.shared_memory_kib * 1024)
        self._prompts_file = open_prompts_file(self._args)
        time.sleep(self._args.block_loop_s)  # noqa: ASYNC251  it is what this argument asks for
        await asyncio.sleep(self._args.start_s)
        if self._args.crash_at_start is True or self.spec.rank in (self._args.crash_at_start or ()):
            _kill_self()
        report(Stage.WARMING_UP)
        self._warm_up()
        return self._facts()

    def submit(self, run: Run) -> None:
        if self._prompts_file is not None:  # in one piece and unbuffered: it is there when this process is killed
            os.write(self._prompts_file, b"".join(item.prompt.replace(b"\n", b" ") + b"\n" for item in run.items))
        for item in run.items:
            self._accept(self._maker.make(item, run.params[item.params]))
        self._continue()

    def abort(self, attempts: list[int]) -> None:
        for attempt in attempts:
            job = self._jobs.pop(attempt, None)
            if job is None:
                continue
            self._await_no_more(attempt)
            if job.state is JobState.RUNNING:
                self._leave(job)
            elif job.state is JobState.WAITING:
                self.load.waiting -= job.width
            job.state = JobState.ABORTED
            self.emit(Result(attempt, Outcome.ABORTED))

    def taken(self, taken: list[tuple[int, int]]) -> None:
        for attempt, size in taken:
            if (job := self._jobs.get(attempt)) is not None and job.stream is not None:
                job.stream.taken(size)
                self._end_if_told(job)

    def untouched(self) -> list[int]:
        return [job.result.attempt for job in list(self._waiting) if job.state is JobState.WAITING]

    async def check(self, params: bytes) -> ItemError | None:
        plan = self._planner.plan(params)
        return plan if isinstance(plan, ItemError) else None

    async def count(self, params: list[bytes], items: list[RunItem]) -> list[ItemSize]:
        plans = [self._planner.plan(encoded) for encoded in params]
        return [size_of(item, plans[item.params], self._args.max_model_len) for item in items]

    def metrics(self) -> bytes:
        return expose(self.spec.rank, self.load)

    async def close(self) -> None:
        self._stop_stepping()
        if self._shared_memory is not None:
            self._shared_memory.close()
            self._shared_memory.unlink()
        if self._prompts_file is not None:
            os.close(self._prompts_file)
        self._prompts_file = None

    # -- starting

    def _warm_up(self) -> None:
        plan = self._planner.plan(msgspec.msgpack.encode({"max_tokens": 2}))
        if isinstance(plan, Plan):
            answer(RunItem(0, PromptKind.TEXT, b'"warm-up"', 0), plan, 1, self._args.max_model_len)

    def _facts(self) -> RankFacts:
        is_lockstep = self.spec.group_kind is GroupKind.LOCKSTEP
        return RankFacts(
            engine="simulated",
            model=self.spec.model,
            is_moe=self._args.is_moe,
            expert_parallel=self.spec.expert_parallel,
            data_parallel_size=self.spec.dp_size if is_lockstep else 1,
            tensor_parallel_size=self.spec.tp_size,
            max_model_len=self._args.max_model_len,
            max_num_seqs=self._args.max_num_seqs,
            kv_cache_tokens=self._args.kv_cache_tokens,
            vocab_size=VOCAB_SIZE,
            dtype="none",
            device="simulated",
            exchanges=self._maker.offered,
            generates=self._args.generates,
        )

    # -- one attempt

    def _accept(self, job: Job | Result) -> None:
        if isinstance(job, Result):
            self.emit(job)
            return
        self._jobs[job.result.attempt] = job
        self._waiting.append(job)
        self.load.waiting += job.width

    def _admit(self) -> None:
        """Lets waiting attempts in, in order, as far as there is room. One that never fits runs alone."""
        while self._waiting:
            job = self._waiting[0]
            if job.state is JobState.WAITING:
                if not self._has_room(job):
                    return
                self._enter(job)
            self._waiting.popleft()

    def _has_room(self, job: Job) -> bool:
        cache = self._args.kv_cache_tokens
        fits_cache = not cache or self._tokens_held + job.tokens <= cache
        return not self.load.running or (fits_cache and self.load.running + job.width <= self._args.max_num_seqs)

    def _enter(self, job: Job) -> None:
        job.state = JobState.RUNNING
        self.load.waiting -= job.width
        self._account(job, 1)
        if job.fault not in (Fault.SLOW, Fault.CRASH_MIDSTREAM):
            self._next_fault = self._next_fault or job.fault
        if job.stream is not None:
            self._streaming[job.result.attempt] = job
        heapq.heappush(self._ends, (self.load.steps + job.steps, job.result.attempt, job))

    def _account(self, job: Job, sign: int) -> None:
        """Counts a job that comes (1) or goes (-1)."""
        self.load.given += sign
        self.load.running += sign * job.width
        self._tokens_held += sign * job.tokens
        self._making += sign * job.result.completion_tokens / job.steps
        self._slow_running += sign * (job.fault is Fault.SLOW)
        if self._args.kv_cache_tokens:
            self.load.kv_cache_usage = min(1.0, self._tokens_held / self._args.kv_cache_tokens)

    def _leave(self, job: Job) -> None:
        self._account(job, -1)
        self._streaming.pop(job.result.attempt, None)

    def _finish(self, job: Job) -> None:
        """All of its tokens are made."""
        self._leave(job)
        job.state = JobState.MADE
        self.load.prompt_tokens += job.result.prompt_tokens
        self._awaiting.add(job.result.attempt)
        self.load.awaiting = len(self._awaiting)
        self._end_if_told(job)

    def _end_if_told(self, job: Job) -> None:
        """A result comes after everything that there is of its stream."""
        if job.state is JobState.MADE and (job.stream is None or job.stream.is_told):
            self._await_no_more(job.result.attempt)
            del self._jobs[job.result.attempt]
            self.emit(job.result)

    def _await_no_more(self, attempt: int) -> None:
        self._awaiting.discard(attempt)
        self.load.awaiting = len(self._awaiting)

    # -- steps

    def _continue(self) -> None:
        """Starts stepping again after idleness."""
        if self._timer is None and not self._stopped:
            self.load.begin()
            self._admit()
            self._step_due_at = time.monotonic() + self._step_s()
            self._arm()

    def _arm(self) -> None:
        if self.load.running and not self._stopped:
            delay_s = max(0.0, self._step_due_at - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick_guarded)

    def _tick(self) -> None:
        """Makes the steps that are due. A timer comes late, a step does not: several may be due."""
        self._timer = None
        now = time.monotonic()
        # A process that was stopped for a while goes on from there; it does not make up for the time.
        self._step_due_at = max(self._step_due_at, now - MAX_LAG_S)
        while self.load.running and not self._stopped and self._step_due_at <= now:
            self._step()
            if self._streaming:
                break  # what has been made of the streams is sent before there is more
        self._admit()  # all that ran may have been aborted
        self._arm()

    def _step(self) -> None:
        if self._next_fault is not None:
            self._suffer(self._next_fault)
            return
        self.load.step()
        self._made += self._making
        self.load.completion_tokens = round(self._made)  # as they are made, like vLLM
        for job in self._streaming.values():
            self._stream(job)
        while self._ends and self._ends[0][0] <= self.load.steps:
            job = heapq.heappop(self._ends)[2]
            if job.state is JobState.RUNNING:
                self._finish(job)
        self._admit()
        self._step_due_at += self._step_s()

    def _stream(self, job: Job) -> None:
        stream = job.stream
        if stream is None:
            return
        if job.fault is Fault.CRASH_MIDSTREAM and stream.chunks >= CHUNKS_BEFORE_CRASH:
            time.sleep(LAST_CHUNKS_S)
            _kill_self()
        stream.step()

    def _step_s(self) -> float:
        factor = self._args.slow_factor if self._slow_running else 1.0
        return factor * (self._args.step_ms / 1e3 + self._args.seq_us * self.load.running / 1e6)

    def _suffer(self, fault: Fault) -> None:
        if fault is Fault.CRASH:
            _kill_self()
        self._stop_stepping()
        if fault is Fault.CHOKE:
            self.died(f"the simulated engine choked on a prompt with {self._args.choke_on!r}")

    def _on_failure(self, what: str, error: BaseException) -> None:
        self._stop_stepping()
        self.died(f"{what}: {summary(error, with_message=self.spec.log_prompts)}")

    def _stop_stepping(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
