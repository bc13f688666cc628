"""Ranks that batch continuously, as vLLM does, by a model of what a step takes.

Every sequence that runs makes a token a step. Waiting ones join at the beginning of a step, as many as there is room
for, and as their prompts fit into the tokens of one step. All ranks of a group step together and take as long as the
one with the most to do: that is a lock-step group, and a replica is a group of one. Preemption is not modelled.
"""

import heapq
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from app.ranks.events import Member
from bench.scale.timeline import Timeline
from engines.contract.protocol import Abort, Outcome, RankFacts, Result, Run

Answer = Callable[[int, int, list[Result]], None]  # rank, incarnation, what ended in one step
_decode_prompt = msgspec.json.Decoder(tuple[int, int, int]).decode  # its number, its tokens, those of its answer


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """What a step takes.

    The base and a sequence's part are what the engine core took of its core for PowerMoE-3b's shape on an H100, where
    it was the limit. A prompt token's part is a guess that fits the throughput seen there.
    """

    base_s: float = 0.007
    sequence_s: float = 14.5e-6
    prompt_token_s: float = 2e-6
    mixed_s: float = 0.0  # more, for a step that takes in prompts: attention runs outside of the graphs
    eager_s: float = 0.0  # more than that, for a step beyond the largest graph
    graph_tokens: int = 2048  # of the largest graph: a token of each sequence, and prompts
    prefill_interval: int = 1  # steps from one that takes in prompts to the next (vLLM's prefill_schedule_interval)
    sequences: int = 1024  # that a rank runs at once
    batched_tokens: int = 16_384  # of one step, prompts counted in
    kv_cache_tokens: int = 1_000_000
    max_model_len: int = 4096

    def step_s(self, sequences: int, prompt_tokens: int = 0) -> float:
        """One step of one rank."""
        return self.group_step_s([(sequences, prompt_tokens)])

    def group_step_s(self, ranks: Sequence[tuple[int, int]]) -> float:
        """One step of ranks with so many sequences and tokens of prompts: as long as the one with the most to do takes
        in the mode of the one that has the least of a graph."""
        work_s = max(self.sequence_s * running + self.prompt_token_s * prompts for running, prompts in ranks)
        is_mixed = any(prompts for _, prompts in ranks)
        is_eager = any(running + prompts > self.graph_tokens for running, prompts in ranks)
        return self.base_s + work_s + self.mixed_s * is_mixed + self.eager_s * is_eager

    def items_per_s(self, prompt_tokens: float, tokens: float) -> float:
        """Of one rank that is always full: no order or placement does better."""
        per_item_s = tokens * self.step_s(self.sequences) / self.sequences + prompt_tokens * self.prompt_token_s
        return 1 / per_item_s

    def facts(self, ranks: int) -> RankFacts:
        """What each rank of a group of so many says of itself."""
        return RankFacts(
            engine="simulated by bench scale",
            model="simulated",
            is_moe=ranks > 1,
            expert_parallel=ranks > 1,
            data_parallel_size=ranks,
            tensor_parallel_size=1,
            max_model_len=self.max_model_len,
            max_num_seqs=self.sequences,
            kv_cache_tokens=self.kv_cache_tokens,
            vocab_size=100,
            dtype="none",
            device="simulated",
        )


class SimulatedRank:
    """What one rank holds."""

    def __init__(self, number: int, speed: Speed) -> None:
        self.number = number
        self.speed = speed
        self.waiting: deque[tuple[int, int, int]] = deque()  # attempt, tokens of its prompt and of its answer
        self.running: list[tuple[int, int, int, int]] = []  # heap: the step that ends it, and the same
        self._had_too_many = False  # some still waited after the last step that took in prompts

    def admit(self, step: int) -> int:
        """Lets in what there is room for, unless the step is none that takes in prompts: vLLM keeps to its interval as
        long as each such step has room for all that wait. Returns the tokens of these prompts."""
        if step % self.speed.prefill_interval and self.running and not self._had_too_many:
            return 0
        left = self.speed.batched_tokens - len(self.running)
        room = self.speed.sequences - len(self.running)
        taken = 0
        while self.waiting and room and self.waiting[0][1] <= left - taken:
            attempt, prompt_tokens, tokens = self.waiting.popleft()
            heapq.heappush(self.running, (step + tokens, attempt, prompt_tokens, tokens))
            taken += prompt_tokens
            room -= 1
        self._had_too_many = bool(self.waiting)
        return taken

    def end(self, step: int) -> list[Result]:
        """What has ended with this step."""
        ended = []
        while self.running and self.running[0][0] <= step:
            _, attempt, prompt_tokens, tokens = heapq.heappop(self.running)
            ended.append(Result(attempt, Outcome.OK, prompt_tokens=prompt_tokens, completion_tokens=tokens))
        return ended

    def drop(self) -> None:
        """All of it is lost."""
        self.waiting.clear()
        self.running.clear()

    @property
    def lets_in(self) -> bool:
        """Whether the next step takes in anything that waits."""
        return bool(self.waiting) and len(self.running) < self.speed.sequences


class SimulatedGroup:
    """Ranks that step, live and die together."""

    def __init__(self, number: int, ranks: Sequence[int], speed: Speed, timeline: Timeline, answer: Answer) -> None:
        self.number = number
        self.ranks = {rank: SimulatedRank(rank, speed) for rank in ranks}
        self.incarnation = 0
        self._speed = speed
        self._timeline = timeline
        self._answer = answer
        self._step = 0
        self._flight: _Flight | None = None  # the steps that are being made

    def start(self) -> list[Member]:
        """A new life."""
        self.incarnation += 1
        facts = self._speed.facts(len(self.ranks))
        return [Member(rank, self.incarnation, facts) for rank in self.ranks]

    def lose(self) -> None:
        """It ends with everything that it holds. What it has said before may still arrive."""
        self._flight = None
        for rank in self.ranks.values():
            rank.drop()

    def receive(self, rank: int, message: Run | Abort) -> None:
        """From the gateway; dropped if it was for another life."""
        if message.incarnation != self.incarnation or isinstance(message, Abort):
            return
        held = self.ranks[rank]
        held.waiting.extend((item.attempt, *_decode_prompt(item.prompt)[1:]) for item in message.items)
        if self._flight is None:
            self._fly()
        elif held.lets_in:
            self._cut(self._flight)

    def _fly(self) -> None:
        """Makes steps until one changes something: an answer is complete, or there is more to take in."""
        prompts = [rank.admit(self._step) for rank in self.ranks.values()]
        running = [len(rank.running) for rank in self.ranks.values()]
        if not any(running):
            self._flight = None
            return
        steps = min(rank.running[0][0] for rank in self.ranks.values() if rank.running) - self._step
        interval = self._speed.prefill_interval
        if interval > 1 or any(rank.lets_in for rank in self.ranks.values()):
            steps = min(steps, interval - self._step % interval)
        first_s = self._speed.group_step_s(list(zip(running, prompts, strict=True)))
        each_s = self._speed.group_step_s([(count, 0) for count in running])
        self._plan(_Flight(self._timeline.now_s, first_s, each_s, steps))

    def _plan(self, flight: "_Flight") -> None:
        self._flight = flight
        self._timeline.after(flight.ends_s - self._timeline.now_s, lambda: self._land(flight))

    def _cut(self, flight: "_Flight") -> None:
        """It ends with the step that is being made."""
        elapsed_s = self._timeline.now_s - flight.began_s - flight.first_s
        steps = 1 if elapsed_s < 0 else 2 + int(elapsed_s / flight.each_s)
        if steps < flight.steps:
            self._plan(_Flight(flight.began_s, flight.first_s, flight.each_s, steps))

    def _land(self, flight: "_Flight") -> None:
        if flight is not self._flight:  # it was cut, or its group lost
            return
        self._step += flight.steps
        for rank in self.ranks.values():
            ended = rank.end(self._step)
            if ended:
                self._answer(rank.number, self.incarnation, ended)
        self._fly()


class _Flight(msgspec.Struct, frozen=True, eq=False):
    """Steps with the same sequences; the first one takes in prompts."""

    began_s: float
    first_s: float
    each_s: float
    steps: int

    @property
    def ends_s(self) -> float:
        return self.began_s + self.first_s + (self.steps - 1) * self.each_s
