"""What an attempt becomes in the simulated engine: a job, whose answer is there from the start, and whose sequences
take their time; or a result at once."""

from enum import Enum, auto

import msgspec

from engines.contract.exchanges import decode_head
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import Outcome, PromptKind, Result, RunItem
from engines.rank.engine import Emit
from engines.simulated.answers import Planner, answer
from engines.simulated.arguments import Fault, SimulatedArgs
from engines.simulated.exchanges import EVENTS, Answerer
from engines.simulated.prompts import count_prompt
from engines.simulated.streams import Stream

NOTHING_GENERATED = ItemError(ItemErrorCode.INVALID_PROMPT, "a pooling model is played here: it generates nothing")


class JobState(Enum):
    """How far a job is."""

    WAITING = auto()  # for room
    RUNNING = auto()
    MADE = auto()  # all of its tokens; its client has not taken enough of the stream to be sent the rest
    ABORTED = auto()


class Job(msgspec.Struct, eq=False):
    """One attempt: `width` sequences that run together until the longest ends, `steps` after it was let in."""

    result: Result
    width: int
    steps: int
    tokens: int  # KV cache that it holds while it runs
    stream: Stream | None = None
    fault: Fault | None = None
    state: JobState = JobState.WAITING


class JobMaker:
    """Makes jobs of items and exchanges."""

    def __init__(self, model: str, args: SimulatedArgs, planner: Planner, emit: Emit) -> None:
        self._is_instant = not (args.step_ms or args.seq_us)
        self._max_model_len = args.max_model_len
        self._needles = args.needles()
        self._planner = planner
        self._answerer = Answerer(model, args.max_model_len, planner, generates=args.generates)
        self._refusal = None if args.generates else NOTHING_GENERATED
        self._emit = emit

    def make(self, item: RunItem, params: bytes) -> Job | Result:
        """The job of an item, or its result if there is nothing to run."""
        is_exchange = item.kind is PromptKind.EXCHANGE
        job = self._exchange(item, params) if is_exchange else self._generation(item, params)
        if isinstance(job, Job):
            job.steps = 1 if self._is_instant and job.stream is None else job.steps
            job.fault = next((fault for fault, needle in self._needles if needle in item.prompt), None)
        return job

    @property
    def offered(self) -> list[str]:
        """The exchanges that are answered."""
        return list(self._answerer.offered)

    def _generation(self, item: RunItem, params: bytes) -> Job | Result:
        if self._refusal is not None:
            return Result(item.attempt, Outcome.ERROR, error=self._refusal)
        plan = self._planner.plan(params)
        if isinstance(plan, ItemError):
            return Result(item.attempt, Outcome.ERROR, error=plan)
        length = count_prompt(item, self._max_model_len)
        if isinstance(length, ItemError):
            return Result(item.attempt, Outcome.ERROR, error=length)
        result, steps = answer(item, plan, length, self._max_model_len)
        return Job(result, plan.n, steps, tokens=plan.n * (length + steps))

    def _exchange(self, item: RunItem, head: bytes) -> Job | Result:
        found = self._answerer.answer(item.attempt, decode_head(head), item.prompt)
        if not found.steps:
            return found.result
        stream = None if found.events is None else Stream(item.attempt, EVENTS, found.events, self._emit)
        return Job(found.result, found.width, found.steps, found.tokens, stream)
