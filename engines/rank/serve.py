"""One rank: it brings its engine up, runs the items it is sent, and hands back exactly one result for each.

The main thread runs the engine and its asyncio loop; the control thread (engines/rank/control.py) talks to the gateway.
"""

import asyncio
import gc
import os
from collections.abc import Callable, MutableMapping
from pathlib import Path

import setproctitle
import uvloop

from engines import logs, tasks
from engines.contract.protocol import (
    PROTOCOL_VERSION,
    Abort,
    Check,
    Checked,
    Chunk,
    Chunks,
    Count,
    Counted,
    Failed,
    FailureKind,
    Hello,
    Ready,
    Result,
    Results,
    Run,
    Scrape,
    Scraped,
    Stage,
    StageReached,
    Stop,
    Stopped,
    Taken,
    ToRank,
)
from engines.contract.spec import EngineKind, RankSpec, read_spec
from engines.failures import report, summary
from engines.host import processes
from engines.rank.control import EXIT_CONFIGURATION, EXIT_FAILED, EXIT_OK, ControlChannel
from engines.rank.engine import Emit, Engine, EngineConfigError
from engines.traces import open_rank_traces
from engines.vllm_engine import variables
from engines.vllm_engine.external_launcher.launch import Launch, read_launch

logger = logs.get_logger(logs.RANK_LOGGER)


def main(spec_path: str, environ: MutableMapping[str, str]) -> int:
    """Runs a rank, or one more worker of it, to its end.

    The exit code tells a wrong configuration (2) from any other failure (1).
    """
    spec = read_spec(Path(spec_path))
    setproctitle.setproctitle(spec.title)
    logs.configure_rank(spec)
    if spec.engine is EngineKind.VLLM:
        variables.choose(spec, environ)
    launch = read_launch(spec, environ) if spec.is_launched else None
    if launch is not None and not launch.leads:
        from engines.vllm_engine.external_launcher.follower import follow  # most ranks have none

        return follow(spec, launch)
    processes.become_subreaper()  # orphans below the rank are found even if the guardian is killed
    return uvloop.run(RankService(spec, launch).run())


class RankService:
    """Connects one engine with the gateway."""

    def __init__(self, spec: RankSpec, launch: Launch | None = None) -> None:
        self._spec = spec
        self._launch = launch
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engine: Engine | None = None
        self._pending: list[Result] = []
        self._chunks: list[Chunk] = []
        self._flush_scheduled = False
        self._answering: set[asyncio.Task[None]] = set()
        self._stopping: asyncio.Task[None] | None = None
        self._traces = open_rank_traces(spec)
        self._control = ControlChannel(spec, self._on_message)

    async def run(self) -> int:
        """Starts, serves until it is stopped or the engine dies. Ends the process itself."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(logs.loop_failure_logger(logs.RANK_LOGGER))
        logger.info("rank_started", engine=str(self._spec.engine), pid=os.getpid())
        self._control.start()
        self._control.send(self._hello())
        self._report(Stage.SPAWNED)
        try:
            await self._start_engine()
        except EngineConfigError as error:
            self._give_up(FailureKind.CONFIGURATION, str(error), EXIT_CONFIGURATION)
        except Exception as error:  # noqa: BLE001  the edge: whatever an engine raises while starting is a failed start
            how = report(error, with_message=True)  # no prompt was there yet
            self._give_up(FailureKind.START, f"{type(error).__name__}: {error}", EXIT_FAILED, exception=how)
        await asyncio.Event().wait()
        return EXIT_OK

    async def _start_engine(self) -> None:
        engine = make_engine(self._spec, self._emit, self._on_engine_death, self._launch)
        self._control.load = engine.load
        facts = await engine.start(self._report)
        # What the engine's packages have made stays for good: a full collection would walk all of it in vain, for a
        # third of a second in which no item is started.
        gc.collect()
        gc.freeze()
        self._engine = engine
        self._control.untouched = engine.untouched
        self._control.watch(facts.processes)
        self._report(Stage.SERVING)
        logger.info("rank_serving", engine=facts.engine, processes=facts.processes)
        self._control.send(Ready(incarnation=self._spec.incarnation, facts=facts))

    # -- from the gateway, on the control thread

    def _on_message(self, message: ToRank) -> None:
        if isinstance(message, Stop):
            self._control.unwatch()
            if self._engine is None:
                # The main thread may be blocked in loading for minutes: the guardian ends what it has started.
                self._control.send(Stopped(incarnation=self._spec.incarnation))
                self._control.exit(EXIT_OK)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._take, message)

    # -- on the loop

    def _take(self, message: ToRank) -> None:
        """Items that the engine trips over would never get a result: the rank is lost then, and says so."""
        try:
            self._handle(message)
        except Exception as error:  # the edge: whatever an engine raises
            logger.exception("message_failed", message=type(message).__name__)
            if isinstance(message, Run | Abort):
                reason = summary(error, with_message=self._spec.log_prompts)
                self._give_up(FailureKind.ENGINE, reason, EXIT_FAILED)

    def _handle(self, message: ToRank) -> None:
        engine = self._engine
        if engine is None:
            return
        match message:
            case Run():
                if self._traces is not None:
                    self._traces.begin(message.items)
                engine.submit(message)
            case Abort(attempts=attempts):
                engine.abort(attempts)
            case Taken(taken=taken):
                engine.taken(taken)
            case Check() | Count():
                answering = tasks.start(self._answer(engine, message), "answer", self._on_failure)
                self._answering.add(answering)
                answering.add_done_callback(self._answering.discard)
            case Scrape(scrape=number):
                self._control.send(Scraped(incarnation=self._spec.incarnation, scrape=number, text=engine.metrics()))
            case Stop():
                self._stopping = tasks.start(self._stop(engine), "stop", self._on_failure)

    async def _answer(self, engine: Engine, question: Check | Count) -> None:
        """An answer may take its time. Without one, the gateway does not wait for ever."""
        incarnation = self._spec.incarnation
        answer: Checked | Counted
        try:
            if isinstance(question, Check):
                error = await engine.check(question.params)
                answer = Checked(incarnation=incarnation, check=question.check, error=error)
            else:
                sizes = await engine.count(question.params, question.items)
                answer = Counted(incarnation=incarnation, count=question.count, sizes=sizes)
        except Exception:  # the edge: whatever an engine raises
            logger.exception("message_failed", message=type(question).__name__)
            return
        self._control.send(answer)

    def _emit(self, what: Result | Chunk) -> None:
        """Coalesces: all results of one turn of the loop, which is an engine step, go in one message, and all chunks in
        one before it."""
        if isinstance(what, Chunk):
            self._chunks.append(what)
        else:
            self._pending.append(what)
            if self._traces is not None:
                self._traces.end(what)
        if not self._flush_scheduled and self._loop is not None:
            self._flush_scheduled = True
            self._loop.call_soon(tasks.guarded(self._flush, "results", self._on_failure))

    def _flush(self) -> None:
        self._flush_scheduled = False
        incarnation = self._spec.incarnation
        if self._chunks:
            chunks, self._chunks = self._chunks, []
            self._control.send(Chunks(incarnation=incarnation, chunks=chunks))
        if not self._pending:
            return
        results, self._pending = self._pending, []
        self._control.send(Results(incarnation=incarnation, results=results))

    async def _stop(self, engine: Engine) -> None:
        try:
            await asyncio.wait_for(engine.close(), self._spec.stop_timeout_s)
        except Exception:  # the edge: a rank that is told to stop stops, whatever its engine thinks
            logger.exception("stop_failed")
        if self._traces is not None:
            await asyncio.to_thread(self._traces.close)
        self._control.send(Stopped(incarnation=self._spec.incarnation))
        self._control.exit(EXIT_OK)

    def _on_engine_death(self, reason: str) -> None:
        if self._stopping is not None:
            return  # a peer of its lock-step group has stopped first
        self._give_up(FailureKind.ENGINE, reason, EXIT_FAILED)

    def _on_failure(self, what: str, error: BaseException) -> None:
        """The rank itself failed: what it was to do will not be done, and others wait for it."""
        reason = f"{what}: {summary(error, with_message=self._spec.log_prompts)}"
        self._give_up(FailureKind.ENGINE, reason, EXIT_FAILED)

    def _give_up(self, kind: FailureKind, reason: str, code: int, **details: str) -> None:
        logger.error("rank_failed", kind=str(kind), reason=reason, **details)
        untouched = self._engine.untouched() if self._engine is not None else []
        self._control.send(Failed(incarnation=self._spec.incarnation, kind=kind, reason=reason, untouched=untouched))
        self._control.exit(code)

    def _report(self, stage: Stage) -> None:
        self._control.send(StageReached(incarnation=self._spec.incarnation, stage=stage))

    def _hello(self) -> Hello:
        return Hello(
            incarnation=self._spec.incarnation, protocol=PROTOCOL_VERSION, rank=self._spec.rank, pid=os.getpid()
        )


def make_engine(spec: RankSpec, emit: Emit, died: Callable[[str], None], launch: Launch | None) -> Engine:
    """The engine that the spec asks for; imported here, so that a simulated rank needs no vllm."""
    if spec.engine is EngineKind.SIMULATED:
        from engines.simulated.engine import SimulatedEngine

        return SimulatedEngine(spec, emit, died)
    if launch is not None:
        from engines.vllm_engine.external_launcher.engine import LaunchedEngine

        return LaunchedEngine(spec, emit, died, launch)
    from engines.vllm_engine.engine import VllmEngine

    return VllmEngine(spec, emit, died)
