"""Answers exchanges with vLLM's own OpenAI application, which is given a door instead of the engine."""

from collections.abc import Callable
from typing import Any

from engines.contract.exchanges import Exchange, decode_head
from engines.contract.protocol import Chunk, Result, RunItem
from engines.rank.engine import EngineLoad
from engines.vllm_engine import server_compat
from engines.vllm_engine.exchanges.call import Application, Call
from engines.vllm_engine.exchanges.door import Door, current_call
from engines.vllm_engine.exchanges.shortcut import Shortcut


class ExchangeDesk:
    """The exchanges of one rank, by attempt."""

    def __init__(
        self,
        application: Application,
        offered: list[str],
        emit: Callable[[Chunk], None],
        load: EngineLoad,
        died: Callable[[str], None],
        context: Callable[[str | None], dict[str, Any]],
    ) -> None:  # Any: keyword arguments of AsyncLLM.generate
        self.offered = offered  # paths
        self._application = application
        self._emit = emit
        self._load = load
        self._died = died
        self._context = context
        self._calls: dict[int, Call] = {}

    async def run(self, item: RunItem, params: bytes) -> Result | None:
        """The exchange's result. None when the engine has died with it.

        To be run in a task of its own: the call is known to what runs in it.
        """
        call = Call(item.attempt, decode_head(params), item.prompt, self._emit, self._load, self._context(item.trace))
        self._calls[item.attempt] = call
        current_call.set(call)
        try:
            result = await call.run(self._application)
        finally:
            del self._calls[item.attempt]
        if call.engine_died is not None:
            self._died(f"vLLM's engine is dead: {call.engine_died}")
            return None
        return result

    def disconnect(self, attempt: int) -> bool:
        """Nobody wants the answer any more. Whether the attempt is an exchange that is under way."""
        call = self._calls.get(attempt)
        if call is not None:
            call.disconnect()
        return call is not None

    def take(self, attempt: int, size: int) -> None:
        """So many bytes of the exchange's stream have been taken."""
        call = self._calls.get(attempt)
        if call is not None:
            call.take(size)


async def open_desk(
    door: Door,
    arguments: Any,  # an argparse.Namespace of vLLM's server
    emit: Callable[[Chunk], None],
    load: EngineLoad,
    died: Callable[[str], None],
    context: Callable[[str | None], dict[str, Any]],
) -> ExchangeDesk:
    """Builds vLLM's application. Takes some seconds, and holds the loop for half of one."""
    tasks = await door.get_supported_tasks()
    application = await server_compat.server_application(door, arguments, tasks)
    has = {route.path for route in application.routes if "POST" in (getattr(route, "methods", None) or ())}
    offered = [str(path) for path in Exchange if path in has and server_compat.has_handler(application, path)]
    return ExchangeDesk(Shortcut(application), offered, emit, load, died, context)
