"""A rank's engine on vLLM: one AsyncLLM, on the main thread, with one task per attempt."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from engines import logs, tasks
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import ItemSize, Outcome, PromptKind, RankFacts, Result, Run, RunItem, Stage
from engines.contract.spec import RankSpec
from engines.failures import summary
from engines.host.installed import vllm_version
from engines.rank.engine import Emit, Engine, EngineConfigError, ReportStage
from engines.traces import UNTRACED
from engines.vllm_engine import compat, pooling, read_ahead, server_compat, worker_limits
from engines.vllm_engine.arguments import front_flags
from engines.vllm_engine.configuring import configure
from engines.vllm_engine.counting import ItemCounter
from engines.vllm_engine.exchanges.desk import ExchangeDesk, open_desk
from engines.vllm_engine.exchanges.door import Door
from engines.vllm_engine.exchanges.gate import ParameterGate
from engines.vllm_engine.facts import rank_facts
from engines.vllm_engine.front_flags import front_arguments
from engines.vllm_engine.given import Given
from engines.vllm_engine.logprobs import LARGE, LogprobsRoom, logprobs_of
from engines.vllm_engine.metrics import exposition
from engines.vllm_engine.output_checks import OutputChecker, start_output_checker
from engines.vllm_engine.outputs import ResultMaker
from engines.vllm_engine.prompts import PromptRefused, PromptRenderer
from engines.vllm_engine.sampling import SamplingCompiler
from engines.vllm_engine.steps import step_recorder
from engines.vllm_engine.structures import StructureChecker, start_checker

logger = logs.get_logger(logs.RANK_LOGGER)
TURN_S = 0.01  # of rendering between two turns of the loop


class VllmEngine(Engine):
    """Items go to AsyncLLM.generate; each final output becomes one result."""

    def __init__(self, spec: RankSpec, emit: Emit, died: Callable[[str], None]) -> None:
        super().__init__(spec, emit, died)
        self._llm: Any = None  # Any: vLLM's AsyncLLM
        self._renderer: PromptRenderer
        self._sampling: SamplingCompiler = pooling.NoSampling(spec.served_as or spec.model)
        self._structures: StructureChecker
        self._checkers: tuple[StructureChecker | OutputChecker, ...] = ()
        self._results: ResultMaker
        self._logprobs = LogprobsRoom(spec.dp_size)
        # What would hold the loop: large prompts, one at a time, for there is one tokenizer; and large results.
        self._aside = ThreadPoolExecutor(1, "aside")
        self._queue: deque[tuple[RunItem, bytes]] = deque()
        self._queued = asyncio.Event()
        self._tasks: dict[int, asyncio.Task[Result | None]] = {}
        self._given = Given(self.load)  # of these, what AsyncLLM has
        self._desk: ExchangeDesk | None = None  # once vLLM's application stands
        self._submitter: asyncio.Task[None] | None = None

    async def start(self, report: ReportStage) -> RankFacts:
        report(Stage.IMPORTING)
        version = vllm_version()
        if not compat.is_supported(version):
            raise EngineConfigError(f"vLLM {version} is installed: 0.26 to 0.33 are supported, install one of them")
        read_ahead.begin(self.spec)
        import vllm.engine.arg_utils  # noqa: F401  what takes this stage its seconds

        report(Stage.CONFIGURING)
        config = configure(self.spec)
        front = front_arguments(front_flags(self.spec), config, self.spec.model, self.spec.served_as)
        generates = not pooling.pools(config)
        if generates:
            self._start_checkers(config)
        report(Stage.LOADING)
        compat.while_engine_core_loads(server_compat.import_server)
        self._llm = self._build(config)
        gate = self._prepare_generating(config) if generates else None
        self._desk = await self._open_desk(gate, front)
        report(Stage.WARMING_UP)
        await self._warm_up(generates=generates)
        compat.remember_variables()
        self._submitter = tasks.start(self._submit_queued(), "submitter", self._on_failure)
        return rank_facts(self.spec, version, config, self._desk.offered)

    def submit(self, run: Run) -> None:
        for item in run.items:
            self._queue.append((item, run.params[item.params]))
        self._queued.set()

    def abort(self, attempts: list[int]) -> None:
        unwanted = set(attempts)
        for item, _ in self._queue:
            if item.attempt in unwanted:
                self.emit(Result(item.attempt, Outcome.ABORTED))
        self._queue = deque(entry for entry in self._queue if entry[0].attempt not in unwanted)
        for attempt in attempts:
            if attempt in self._tasks and not (self._desk and self._desk.disconnect(attempt)):
                self._tasks[attempt].cancel()

    def taken(self, taken: list[tuple[int, int]]) -> None:
        if self._desk is not None:
            for attempt, size in taken:
                self._desk.take(attempt, size)

    def untouched(self) -> list[int]:
        queued = [item.attempt for item, _ in list(self._queue)]
        return queued + [attempt for attempt in list(self._tasks) if attempt not in self._given]

    async def check(self, params: bytes) -> ItemError | None:
        compiled = await self._sampling.checked(params)
        self.load.prepared += 1
        return compiled if isinstance(compiled, ItemError) else None

    async def count(self, params: list[bytes], items: list[RunItem]) -> list[ItemSize]:
        counter = ItemCounter(self._prepared, self._sampling, self._logprobs, self._aside, self.load)
        return await counter.count(params, items, self._llm.model_config.get_vocab_size())

    def metrics(self) -> bytes:
        return exposition(self.spec.rank)

    async def close(self) -> None:
        await tasks.end(self._submitter, *self._tasks.values())
        self._aside.shutdown(wait=False, cancel_futures=True)
        for checker in self._checkers:
            checker.close()
        if self._llm is not None:
            await asyncio.to_thread(self._llm.shutdown)

    # -- starting

    def _build(self, config: Any) -> Any:
        from vllm.v1.engine.async_llm import AsyncLLM

        return AsyncLLM.from_vllm_config(
            config, stat_loggers=[step_recorder(self.load)], disable_log_stats=False, enable_log_requests=False
        )

    def _start_checkers(self, config: Any) -> None:
        structures = self._structures = start_checker(self.spec.rank, config, self.spec.structure_cpu_s, self.died)
        outputs = start_output_checker(self.spec.rank, config, self.spec.structure_cpu_s, self.died)
        self._checkers = (structures, outputs)
        self._results = ResultMaker(self._aside, outputs)

    def _prepare_generating(self, config: Any) -> ParameterGate:
        """What items that are generated for need, and exchanges."""
        model, tokenizer = config.model_config, self._llm.renderer.get_tokenizer()
        self._renderer = PromptRenderer(self._llm.renderer, tokenizer, model)
        self._sampling = SamplingCompiler(model, tokenizer, self._validate, self._structures)
        return ParameterGate(model.get_vocab_size(), tokenizer, self._validate, self._structures, self.spec.limits)

    async def _open_desk(self, gate: ParameterGate | None, front: Any) -> ExchangeDesk:  # Any: as `front_arguments`
        door = Door(self._llm, gate, self._given, self._logprobs)
        return await open_desk(door, front, self.emit, self.load, self.died, self._context)

    def _validate(self, sampling: Any) -> Any:  # Any: vLLM's SamplingParams
        """All that vLLM checks of parameters, on a prompt of one token. Returns them as the engine core gets them."""
        worker_limits.check_runner(sampling, self._llm.vllm_config)
        (prompt,) = self._llm.renderer.render_cmpl([{"prompt_token_ids": [0]}])
        checked = self._llm.input_processor.process_inputs("check", prompt, sampling, supported_tasks=("generate",))
        return checked.sampling_params

    async def _warm_up(self, *, generates: bool) -> None:
        """One short prompt: a rank that says ready has done what it is for."""
        from vllm import SamplingParams

        self.load.begin()
        if generates:
            params = SamplingParams(max_tokens=2, temperature=0.0)
            async for _ in self._llm.generate({"prompt_token_ids": [1]}, params, "warm-up", **self._context(None)):
                pass
        else:
            await pooling.warm_up(self._llm, self._context(None))
        self.load.reset()

    # -- serving

    async def _submit_queued(self) -> None:
        """Renders and starts queued attempts in order, giving the loop a turn now and then."""
        while True:
            await self._queued.wait()
            self._queued.clear()
            turn_ends = time.monotonic() + TURN_S
            while self._queue:
                self._begin(*self._queue.popleft())
                if time.monotonic() > turn_ends:
                    await asyncio.sleep(0)
                    turn_ends = time.monotonic() + TURN_S

    def _begin(self, item: RunItem, params: bytes) -> None:
        """Starts one attempt. Whatever is wrong with it is its own error, and keeps no other from running."""
        if item.kind is PromptKind.EXCHANGE and self._desk is not None:
            self._own(item, self._desk.run(item, params))
            return
        template = self._sampling.template(params)
        is_refused = isinstance(template, ItemError)
        if template is None or (not is_refused and self._renderer.is_large(item)):
            self._own(item, self._attempt_aside(item, params))
            return
        prepared = self._prepared(item, template)
        self.load.prepared += 1
        if isinstance(prepared, ItemError):
            self.emit(Result(item.attempt, Outcome.ERROR, error=prepared))
        else:
            self._own(item, self._attempt(item, *prepared))

    def _own(self, item: RunItem, work: Coroutine[Any, Any, Result | None]) -> None:
        attempt = item.attempt
        task = tasks.awaited(work, f"attempt {attempt}")
        self._tasks[attempt] = task
        task.add_done_callback(tasks.guarded(partial(self._end, attempt), f"attempt {attempt}", self._on_failure))

    def _on_failure(self, what: str, error: BaseException) -> None:
        """Items wait for what has failed: without it they would wait for ever."""
        self.died(f"{what}: {summary(error, with_message=self.spec.log_prompts)}")

    def _prepared(self, item: RunItem, template: Any) -> tuple[Any, Any] | ItemError:  # Any: vLLM's own classes
        """The prompt and its parameters, as vLLM takes them, or what is wrong with them. Any thread may ask."""
        if isinstance(template, ItemError):
            return template
        try:
            prompt, length = self._renderer.render(item)
            left = self._llm.model_config.max_model_len - length
            return prompt, self._sampling.for_item(template, item.seed, left)
        except PromptRefused as refused:
            return refused.error
        except Exception as error:  # the door: nobody else would hear of it, the item least of all
            logger.exception("attempt_failed", attempt=item.attempt)
            return ItemError(ItemErrorCode.ENGINE_ERROR, compat.shortened(error))

    async def _attempt_aside(self, item: RunItem, params: bytes) -> Result | None:
        """One whose structure has to be checked, or whose prompt would hold the loop: others need not wait for it."""
        template = await self._sampling.checked(params)
        if self._renderer.is_large(item):
            loop = asyncio.get_running_loop()
            prepared = await loop.run_in_executor(self._aside, self._prepared, item, template)
        else:
            prepared = self._prepared(item, template)
        self.load.prepared += 1
        if isinstance(prepared, ItemError):
            return Result(item.attempt, Outcome.ERROR, error=prepared)
        return await self._attempt(item, *prepared)

    async def _attempt(self, item: RunItem, prompt: Any, sampling: Any) -> Result | None:
        """One generation to its end. None when the engine has died of it."""
        vocab_size = self._llm.model_config.get_vocab_size()
        logprobs = logprobs_of(sampling, len(prompt["prompt_token_ids"]), vocab_size)
        if refusal := self._logprobs.refusal(logprobs):
            return Result(item.attempt, Outcome.ERROR, error=refusal)
        final: Any = None
        try:
            async with self._logprobs.taken(logprobs):
                with self._given.giving(item.attempt):
                    context = self._context(item.trace)
                    async for output in self._llm.generate(prompt, sampling, str(item.attempt), **context):
                        final = output
                return await self._results.make(item, sampling, final, is_large=logprobs >= LARGE)
        except Exception as error:  # noqa: BLE001  the door: vLLM's errors become this item's error here
            if self._llm.errored or compat.is_engine_death(error):  # all requests end with the same error
                self.died(f"vLLM's engine is dead: {compat.refusal(error)}")
                return None
            return Result(item.attempt, Outcome.ERROR, error=compat.sampling_error(error))

    def _context(self, trace: str | None) -> dict[str, Any]:
        """Where vLLM's own span of a request belongs, if there are traces."""
        if self.spec.otlp_traces_endpoint is None:
            return {}
        return {"trace_headers": {"traceparent": trace or UNTRACED}}

    def _end(self, attempt: int, task: "asyncio.Task[Result | None]") -> None:
        """Its one result, whatever happened: a task that is cancelled before its first step runs none of its code."""
        del self._tasks[attempt]
        if task.cancelled():
            result: Result | None = Result(attempt, Outcome.ABORTED)
        elif (error := task.exception()) is not None:
            logger.error("attempt_failed", attempt=attempt, exc_info=error)
            failure = ItemError(ItemErrorCode.ENGINE_ERROR, compat.shortened(error))
            result = Result(attempt, Outcome.ERROR, error=failure)
        else:
            result = task.result()
        if result is not None:
            self.emit(result)
