"""What vLLM's application takes for its engine: every request that an exchange makes of it passes here first."""

from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from engines.vllm_engine import compat
from engines.vllm_engine.exchanges.gate import EngineBusy, ParameterGate
from engines.vllm_engine.given import Given
from engines.vllm_engine.logprobs import LogprobsRoom, logprobs_of
from engines.vllm_engine.outputs import LOST_REASONS

if TYPE_CHECKING:
    from engines.vllm_engine.exchanges.call import Call

current_call: "ContextVar[Call]" = ContextVar("current_call")  # in the task of an exchange, and in all that it starts


class Lost(Exception):
    """The engine gave a request up, and nobody had asked for it."""


class Door:
    """An EngineClient of vLLM. What it does not do itself is the engine's own."""

    def __init__(self, llm: Any, gate: ParameterGate | None, given: Given, logprobs: LogprobsRoom) -> None:
        self._llm = llm  # Any: vLLM's AsyncLLM
        self._gate = gate  # None where the model does not generate
        self._given = given
        self._logprobs = logprobs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    @property
    def dead_error(self) -> Exception:
        """What the application answers requests with that come when the engine has died."""
        error: Exception = self._llm.dead_error
        current_call.get().lose(engine_died=compat.refusal(error))
        return error

    async def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **context: Any
    ) -> AsyncIterator[Any]:  # Any: vLLM's own classes
        """As AsyncLLM does it, for parameters that have passed the gate."""
        call = current_call.get()
        try:
            params = await self._pass_through(sampling_params)
            logprobs = self._logprobs_of(prompt, params)
        except EngineBusy as busy:
            call.turn_away(str(busy))
            raise
        except Exception as error:
            _explain(call, error)
            raise
        usage = call.usage_of_request(is_delta=compat.is_delta(params))
        async with self._logprobs.taken(logprobs):
            outputs = self._llm.generate(prompt, params, request_id, **_own(context, call))
            async for output in self._watched(call, outputs):
                if any(part.finish_reason in LOST_REASONS for part in output.outputs):
                    call.lose()
                    raise Lost
                usage.add(output)
                call.has_output = True
                yield output

    async def _pass_through(self, params: Any) -> Any:
        if self._gate is None:
            raise ValueError("the model does not generate")
        return await self._gate.pass_through(params)

    def _logprobs_of(self, prompt: Any, params: Any) -> int:
        """How many it asks for. Raises ValueError when they are more than there is ever room for."""
        prompt_tokens = len(prompt.get("prompt_token_ids") or ())
        logprobs = logprobs_of(params, prompt_tokens, self._llm.model_config.get_vocab_size())
        if refusal := self._logprobs.refusal(logprobs):
            raise ValueError(refusal.message)
        return logprobs

    async def encode(
        self, prompt: Any, pooling_params: Any, request_id: str, **context: Any
    ) -> AsyncIterator[Any]:  # Any: vLLM's own classes
        """As AsyncLLM does it."""
        call = current_call.get()
        usage = call.usage_of_request(is_delta=False)
        outputs = self._llm.encode(prompt, pooling_params, request_id, **_own(context, call))
        async for output in self._watched(call, outputs):
            if compat.is_given_up(output):
                call.lose()
                raise Lost
            usage.add_pooled(output)
            yield output

    async def _watched(self, call: "Call", outputs: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """What the engine puts out. Whatever the application makes of the engine's end, the exchange is lost then."""
        with self._given.giving(call.attempt):
            try:
                async for output in outputs:
                    yield output
            except Exception as error:
                if self._llm.errored or compat.is_engine_death(error):
                    call.lose(engine_died=compat.refusal(error))
                _explain(call, error)
                raise


def _explain(call: "Call", error: Exception) -> None:
    """What the application says of an error in a stream is less than what is known here."""
    if compat.is_client_error(error):
        call.refuse(error)


def _own(context: dict[str, Any], call: "Call") -> dict[str, Any]:
    """Where a request runs, and before which others, is not for a request to say; where its trace belongs, neither."""
    for name in ("priority", "data_parallel_rank", "trace_headers", "session_id"):
        context.pop(name, None)
    return context | call.trace_context
