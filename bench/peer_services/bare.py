"""A FastAPI application under uvicorn: worker processes, a multiprocessing.Queue to each and one back, and a thread
that brings what comes back to the event loop. A request's prompts are dealt out to the workers in turns."""

import argparse
import asyncio
import contextlib
import multiprocessing
import queue
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from bench.peer_services.simulation import PATH, Json, Slots, Writer, add_service_flags

JOIN_TIMEOUT_S = 5.0
Done = list[tuple[int, int, Json]]  # number of the request, index of the prompt, result


class Prompt(BaseModel):
    """One prompt of a batch."""

    prompt: str
    custom_id: str | None = None
    sampling_params: dict[str, Any] | None = None


class Batch(BaseModel):
    """A request."""

    prompts: list[Prompt]
    sampling_params: dict[str, Any] = {}


def work(inbox: Any, outbox: Any, slots: int, step_s: float) -> None:  # Any: multiprocessing.Queue
    """A worker. Takes (number of the request, shared parameters, [(index, prompt)]) until None comes."""
    writer, running = Writer(), Slots[tuple[int, int, Json]](slots, step_s)
    while True:
        message: Any = ()
        with contextlib.suppress(queue.Empty):
            message = inbox.get(timeout=running.wait_s(time.monotonic()))
        if message is None:
            return
        done: Done = []
        if message:
            request, shared, items = message
            for index, item in items:
                result, steps = writer.write(index, item, shared)
                if step_s:
                    running.add((request, index, result), steps, time.monotonic())
                else:
                    done.append((request, index, result))
        done += running.advance(time.monotonic())
        if done:
            outbox.put(done)


class Workers:
    """The worker processes, and the requests that wait for them."""

    def __init__(self, count: int, slots: int, step_s: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._outbox = context.Queue()
        self._inboxes = [context.Queue() for _ in range(count)]
        self._processes = [
            context.Process(target=work, args=(inbox, self._outbox, slots, step_s), daemon=True)
            for inbox in self._inboxes
        ]
        self._dispatcher = threading.Thread(target=self._dispatch, daemon=True)
        self._waiting: dict[int, tuple[asyncio.Future[list[Json]], list[Json], list[int]]] = {}
        self._number = 0
        self._turn = 0

    def start(self) -> None:
        """Starts the processes, in the event loop that asks them."""
        self._loop = asyncio.get_running_loop()
        for process in self._processes:
            process.start()
        self._dispatcher.start()

    def stop(self) -> None:
        """Ends them."""
        for inbox in self._inboxes:
            inbox.put(None)
        for process in self._processes:
            process.join(JOIN_TIMEOUT_S)
        self._outbox.put(None)
        self._dispatcher.join(JOIN_TIMEOUT_S)

    async def run(self, prompts: list[Json], shared: Json) -> list[Json]:
        """The results, in the order of the prompts."""
        if not prompts:
            return []
        self._number += 1
        future: asyncio.Future[list[Json]] = self._loop.create_future()
        self._waiting[self._number] = (future, [{}] * len(prompts), [len(prompts)])
        count = len(self._inboxes)
        for worker, inbox in enumerate(self._inboxes):
            first = (worker - self._turn) % count
            share = list(enumerate(prompts))[first::count]
            if share:
                inbox.put((self._number, shared, share))
        self._turn = (self._turn + len(prompts)) % count
        return await future

    def _dispatch(self) -> None:
        while (done := self._outbox.get()) is not None:
            self._loop.call_soon_threadsafe(self._deliver, done)

    def _deliver(self, done: Done) -> None:
        for request, index, result in done:
            future, results, left = self._waiting[request]
            results[index] = result
            left[0] -= 1
            if not left[0]:
                del self._waiting[request]
                if not future.done():
                    future.set_result(results)


def application(workers: Workers) -> FastAPI:
    """The service."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        workers.start()
        yield
        workers.stop()

    app = FastAPI(lifespan=lifespan)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post(PATH)
    async def generate(batch: Batch) -> JSONResponse:
        prompts = [prompt.model_dump() for prompt in batch.prompts]
        return JSONResponse({"results": await workers.run(prompts, batch.sampling_params)})

    return app


def main() -> None:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_service_flags(parser)
    given = parser.parse_args()
    workers = Workers(given.workers, given.slots, given.step_ms / 1e3)
    uvicorn.run(
        application(workers),
        host="127.0.0.1",
        port=given.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
