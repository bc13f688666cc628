"""What a rank asks of an engine. Two implement it: vLLM, and the simulated one for load and chaos."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable

import msgspec

from engines.contract.item_errors import ItemError
from engines.contract.protocol import Chunk, ItemSize, RankFacts, Result, Run, RunItem, Stage
from engines.contract.spec import RankSpec

ReportStage = Callable[[Stage], None]
Emit = Callable[[Result | Chunk], None]


class EngineLoad(msgspec.Struct):
    """How busy an engine is. Written by the engine's loop, read by the control thread: plain numbers only."""

    given: int = 0  # attempts that what may crash has been given
    prepared: int = 0  # prompts and parameters that were looked at; while nothing is given, that is progress
    awaiting: int = 0  # attempts with more of a stream than their windows take
    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    steps: int = 0
    last_step_at: float | None = None  # time.monotonic()
    busy_since: float = msgspec.field(default_factory=time.monotonic)  # when there was work after there had been none
    longest_step_s: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    preemptions: int = 0

    def reset(self) -> None:
        """The engine is ready. What it did before tells nothing of what it will do: a first step may compile."""
        self.steps = self.prompt_tokens = self.completion_tokens = self.preemptions = 0
        self.last_step_at, self.longest_step_s = None, 0.0
        self.begin()

    def begin(self) -> None:
        """There is work again, after there was none."""
        self.busy_since = time.monotonic()

    def step(self) -> None:
        """A step has been made. It began with the one before, or when there was work again."""
        now = time.monotonic()
        self.longest_step_s = max(self.longest_step_s, now - max(self.busy_since, self.last_step_at or 0.0))
        self.steps += 1
        self.last_step_at = now


class EngineConfigError(Exception):
    """The settings or the model are wrong: starting again would fail again. The message is for the operator."""


class EngineDied(Exception):
    """The engine cannot run anything any more. The message says what happened."""


class Engine(ABC):
    """One rank's engine. All methods are called on the thread of the rank's asyncio loop.

    Results are handed to `emit`, exactly one for every attempt that was submitted, in any order; the chunks of one that
    streams come before its result. After `start` has returned, an engine that dies calls `died` with the reason, once,
    and owes no further result.
    """

    def __init__(self, spec: RankSpec, emit: Emit, died: Callable[[str], None]) -> None:
        self.spec = spec
        self.emit = emit
        self.died = died
        self.load = EngineLoad()

    @abstractmethod
    async def start(self, report: ReportStage) -> RankFacts:
        """Brings the engine up and runs a first prompt. May block the loop for minutes.

        Raises EngineConfigError when starting again would fail again; any other exception is a failed start.
        """

    @abstractmethod
    def submit(self, run: Run) -> None:
        """Begins the attempts of `run`, in order. Returns at once."""

    @abstractmethod
    def abort(self, attempts: list[int]) -> None:
        """Gives attempts up. Each gets a result with Outcome.ABORTED; unknown ones are ignored."""

    @abstractmethod
    def taken(self, taken: list[tuple[int, int]]) -> None:
        """So many bytes of these attempts' streams have been taken. Beyond STREAM_WINDOW_BYTES that have not, none are
        sent; unknown attempts are ignored."""

    @abstractmethod
    def untouched(self) -> list[int]:
        """Attempts that were submitted and that what may crash has not been given yet. Called from any thread."""

    @abstractmethod
    async def check(self, params: bytes) -> ItemError | None:
        """Whether this engine would accept these sampling parameters, for any prompt."""

    @abstractmethod
    async def count(self, params: list[bytes], items: list[RunItem]) -> list[ItemSize]:
        """How large these items are, or why they would be refused; their `params` are places in the list.

        Nothing runs, and the items that run do not wait for it.
        """

    @abstractmethod
    def metrics(self) -> bytes:
        """The engine's own metrics in Prometheus' text format."""

    @abstractmethod
    async def close(self) -> None:
        """Shuts the engine down. Attempts still running are given up without a result."""
