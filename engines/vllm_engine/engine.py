"""A rank's engine on vLLM: one AsyncLLM, on the main thread, with one task per attempt."""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Any

from engines import logs, processes
from engines.base import EmitResult, Engine, EngineConfigError, ReportStage
from engines.protocol import ItemError, ItemErrorCode, Outcome, RankFacts, Result, Run, RunItem, Stage
from engines.spec import RankSpec
from engines.traces import UNTRACED
from engines.vllm_engine import compat
from engines.vllm_engine.arguments import engine_arguments
from engines.vllm_engine.metrics import exposition
from engines.vllm_engine.outputs import to_result
from engines.vllm_engine.prompts import PromptRefused, PromptRenderer
from engines.vllm_engine.sampling import SamplingCompiler
from engines.vllm_engine.steps import step_recorder

logger = logs.get_logger(logs.RANK_LOGGER)
RENDER_SLICE = 16  # prompts tokenised between two turns of the loop: some milliseconds
WATCHED_TITLES = ("VLLM::",)  # engine cores, workers and the coordinator set these process titles


class VllmEngine(Engine):
    """Items go to AsyncLLM.generate; each final output becomes one result."""

    def __init__(self, spec: RankSpec, emit: EmitResult, died: Callable[[str], None]) -> None:
        super().__init__(spec, emit, died)
        self._llm: Any = None  # Any: vLLM's AsyncLLM
        self._renderer: PromptRenderer
        self._sampling: SamplingCompiler
        self._queue: deque[tuple[RunItem, bytes]] = deque()
        self._queued = asyncio.Event()
        self._tasks: dict[int, asyncio.Task[Result | None]] = {}
        self._submitter: asyncio.Task[None] | None = None

    async def start(self, report: ReportStage) -> RankFacts:
        report(Stage.IMPORTING)
        version = compat.version()
        if not compat.is_supported(version):
            raise EngineConfigError(f"vLLM {version} is installed: 0.26 to 0.33 are supported, install one of them")
        from vllm.engine.arg_utils import AsyncEngineArgs

        report(Stage.CONFIGURING)
        arguments = engine_arguments(self.spec)
        config = self._configure(AsyncEngineArgs, arguments)
        report(Stage.LOADING)
        self._llm = self._build(config)
        self._renderer = PromptRenderer(self._llm.renderer, config.model_config)
        self._sampling = SamplingCompiler(config.model_config, self._validate)
        report(Stage.WARMING_UP)
        await self._warm_up()
        self._submitter = asyncio.create_task(self._submit_queued(), name="submitter")
        return self._facts(version, config)

    def submit(self, run: Run) -> None:
        if not self._tasks and not self._queue:
            self.load.begin()
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
            if attempt in self._tasks:
                self._tasks[attempt].cancel()

    def untouched(self) -> list[int]:
        return [item.attempt for item, _ in list(self._queue)]

    def check(self, params: bytes) -> ItemError | None:
        compiled = self._sampling.template(params)
        return compiled if isinstance(compiled, ItemError) else None

    def metrics(self) -> bytes:
        return exposition(self.spec.rank)

    async def close(self) -> None:
        if self._submitter is not None:
            self._submitter.cancel()
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._llm is not None:
            await asyncio.to_thread(self._llm.shutdown)

    # -- starting

    def _configure(self, engine_args_class: Any, arguments: dict[str, Any]) -> Any:
        """vLLM's checked configuration. What vLLM refuses here, it would refuse again."""
        from vllm.usage.usage_lib import UsageContext

        try:
            return engine_args_class(**arguments).create_engine_config(UsageContext.LLM_CLASS)
        except Exception as error:
            raise EngineConfigError(f"vLLM refuses this configuration: {_first_line(error)}") from error

    def _build(self, config: Any) -> Any:
        from vllm.v1.engine.async_llm import AsyncLLM

        return AsyncLLM.from_vllm_config(
            config, stat_loggers=[step_recorder(self.load)], disable_log_stats=False, enable_log_requests=False
        )

    def _validate(self, sampling: Any) -> None:  # Any: vLLM's SamplingParams
        """All that vLLM checks of parameters, on a prompt of one token."""
        (prompt,) = self._llm.renderer.render_cmpl([{"prompt_token_ids": [0]}])
        self._llm.input_processor.process_inputs("check", prompt, sampling, supported_tasks=("generate",))

    async def _warm_up(self) -> None:
        """One short generation: a rank that says ready has generated."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=2, temperature=0.0)
        async for _ in self._llm.generate({"prompt_token_ids": [1]}, params, "warm-up", **self._context(None)):
            pass

    def _facts(self, version: str, config: Any) -> RankFacts:
        model, parallel = config.model_config, config.parallel_config
        return RankFacts(
            engine=f"vllm {version}",
            model=self.spec.model,
            is_moe=compat.is_moe(model),
            expert_parallel=bool(parallel.enable_expert_parallel),
            data_parallel_size=parallel.data_parallel_size,
            tensor_parallel_size=parallel.tensor_parallel_size,
            max_model_len=model.max_model_len,
            max_num_seqs=config.scheduler_config.max_num_seqs,
            kv_cache_tokens=compat.cache_tokens(config),
            vocab_size=model.get_vocab_size(),
            dtype=str(model.dtype).removeprefix("torch."),
            device=self.spec.device,
            processes=_watched(),
        )

    # -- serving

    async def _submit_queued(self) -> None:
        """Renders and starts queued attempts in order, giving the loop a turn now and then."""
        while True:
            await self._queued.wait()
            self._queued.clear()
            while self._queue:
                for _ in range(min(RENDER_SLICE, len(self._queue))):
                    self._begin(*self._queue.popleft())
                await asyncio.sleep(0)

    def _begin(self, item: RunItem, params: bytes) -> None:
        """Starts one attempt. Whatever is wrong with it is its own error, and keeps no other from running."""
        attempt = item.attempt
        try:
            prepared = self._prepare(item, params)
        except PromptRefused as refused:
            prepared = refused.error
        except Exception as error:  # the door: nobody else would hear of it, the item least of all
            logger.exception("attempt_failed", attempt=attempt)
            prepared = ItemError(ItemErrorCode.ENGINE_ERROR, f"{type(error).__name__}: {error}")
        if isinstance(prepared, ItemError):
            self.emit(Result(attempt, Outcome.ERROR, error=prepared))
            return
        task = asyncio.create_task(self._attempt(item, *prepared), name=f"attempt {attempt}")
        self._tasks[attempt] = task
        task.add_done_callback(lambda task: self._end(attempt, task))

    def _prepare(self, item: RunItem, params: bytes) -> tuple[Any, Any] | ItemError:  # Any: vLLM's own classes
        """The prompt and its parameters, as vLLM takes them. Raises PromptRefused."""
        template = self._sampling.template(params)
        if isinstance(template, ItemError):
            return template
        prompt, length = self._renderer.render(item)
        left = self._llm.model_config.max_model_len - length
        return prompt, self._sampling.for_item(template, item.seed, left)

    async def _attempt(self, item: RunItem, prompt: Any, sampling: Any) -> Result | None:
        """One generation to its end. None when the engine has died of it."""
        final: Any = None
        try:
            async for output in self._llm.generate(prompt, sampling, str(item.attempt), **self._context(item.trace)):
                final = output
            return to_result(item.attempt, final, item.return_token_ids)
        except Exception as error:  # noqa: BLE001  the door: vLLM's errors become this item's error here
            if compat.is_engine_death(error):
                self.died(f"vLLM's engine core is dead: {_first_line(error)}")
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
        result = Result(attempt, Outcome.ABORTED) if task.cancelled() else task.result()
        if result is not None:
            self.emit(result)


def _watched() -> dict[str, int]:
    """The processes that vLLM keeps for as long as it lives, by title. Others below the rank may come and go."""
    found: dict[str, int] = {}
    for process in processes.descendants(os.getpid()):
        name = processes.title(process)
        if name.startswith(WATCHED_TITLES):
            found[name] = process.pid
    return found


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
