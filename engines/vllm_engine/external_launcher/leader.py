"""The engine core of a rank as AsyncLLM sees it, where the rank itself is one of torchrun's workers.

It stands in for vLLM's client of an engine core in another process: what AsyncLLM sends becomes orders for the next
round, and what a step puts out goes back to the loop. The steps have a thread of their own, so that the loop stays
free; all else, from the checks of parameters to metrics and traces, is what it is for every other rank.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

from engines import logs
from engines.contract.spec import RankSpec
from engines.failures import report, summary
from engines.vllm_engine.external_launcher.launch import Launch
from engines.vllm_engine.external_launcher.orders import Orders, WorkersDisagree
from engines.vllm_engine.external_launcher.worker import Worker

logger = logs.get_logger(logs.RANK_LOGGER)
PEERS_GRACE_S = 2.0  # to notice that another worker is gone, of any rank: that explains more than what followed


class Inbox:
    """Orders that have come, from any thread, until the thread that steps takes them."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Orders] = queue.SimpleQueue()

    def put(self, orders: Orders) -> None:
        """For the next round."""
        self._queue.put(orders)

    def take(self, wait_s: float) -> Orders:
        """All that have come, as one. Waits so long for the first."""
        taken = Orders(adds=[], aborts=[])
        try:
            more = self._queue.get(timeout=wait_s) if wait_s else self._queue.get_nowait()
            while True:
                taken.adds += more.adds
                taken.aborts += more.aborts
                taken.is_last |= more.is_last
                more = self._queue.get_nowait()
        except queue.Empty:
            return taken


class LeadingCore:
    """Made on the loop, which it blocks until the model is loaded. Raises what loading raises.

    Its public names are those that AsyncLLM uses of vLLM's AsyncMPClient.
    """

    engine_ranks_managed: Sequence[int] = (0,)

    def __init__(
        self, spec: RankSpec, launch: Launch, config: Any, died: Callable[[str], None]
    ) -> None:  # Any: vLLM's VllmConfig
        from vllm.v1.serial_utils import MsgpackEncoder

        self._spec = spec
        self._launch = launch
        self._config = config
        self._died = died
        self._loop = asyncio.get_running_loop()
        self._encode = MsgpackEncoder().encode
        self._inbox = Inbox()
        self._outputs: asyncio.Queue[Any] = asyncio.Queue()  # bounded by what the engine runs at once
        self._ready: Future[list[int]] = Future()
        self._supported_tasks: tuple[str, ...] = ()
        self._thread = threading.Thread(target=self._run, name="steps", daemon=True)
        self._thread.start()
        self.resources = SimpleNamespace(engine_dead=False)  # the rank ends with its engine
        self.pids = self._ready.result()  # of all workers of the rank, by number

    # -- for AsyncLLM, on the loop

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        """What the model is for: it is the same for all workers."""
        return self._supported_tasks

    async def add_request_async(self, request: Any) -> None:  # Any: vLLM's EngineCoreRequest
        """All workers get what was encoded, this one as well: none has anything that others have not."""
        (frame,) = self._encode(request)
        self._inbox.put(Orders(adds=[bytes(frame)]))

    async def abort_requests_async(self, requests: list[str]) -> None:
        """Those that have ended already are no error."""
        if requests:
            self._inbox.put(Orders(aborts=list(requests)))

    async def get_output_async(self) -> Any:
        """The outputs of the next step that has any."""
        return await self._outputs.get()

    def shutdown(self, timeout: float | None = None) -> None:
        """Ends all workers of the group. Returns when this one has ended, or after `timeout` seconds."""
        self._inbox.put(Orders(is_last=True))
        self._thread.join(timeout)

    # -- on the thread that steps

    def _run(self) -> None:
        try:
            self._launch.bind_thread()
            worker = Worker(self._spec, self._config, log_stats=True)
            self._supported_tasks = worker.supported_tasks
            self._ready.set_result(worker.pids)
            worker.run(self._inbox.take, self._deliver)
            worker.close()
        except BaseException as error:  # noqa: BLE001  the edge: without this thread no item would ever end
            self._fail(error)

    def _deliver(self, outputs: Any) -> None:
        self._loop.call_soon_threadsafe(self._outputs.put_nowait, outputs)

    def _fail(self, error: BaseException) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)
            return
        if isinstance(error, WorkersDisagree):
            reason = str(error)
        else:
            time.sleep(PEERS_GRACE_S)
            reason = f"its engine failed: {summary(error, with_message=self._spec.log_prompts)}"
        logger.error("engine_failed", reason=reason, exception=report(error, with_message=self._spec.log_prompts))
        self._loop.call_soon_threadsafe(self._died, reason)
