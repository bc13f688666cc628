"""A LitServe application, in one of three forms that its documentation describes: `async` (a worker has many requests
at once, which share its slots), `batched` (a worker runs what has come together, then the next) and `plain` (a request
after another). It runs in LitServe's own environment."""

import argparse
import asyncio
import time

import litserve

from bench.peer_services.simulation import PATH, Json, Slots, Writer, add_service_flags, run_all

MOST_REQUESTS = 64  # that run together, where they are batched
BATCH_TIMEOUT_S = 0.001  # without any, idle workers would never sleep


class PlainApi(litserve.LitAPI):
    """One request at a time."""

    def __init__(self, slots: int, step_s: float, **options: object) -> None:
        super().__init__(api_path=PATH, **options)
        self.slots, self.step_s = slots, step_s

    def setup(self, device: str) -> None:
        """In each worker."""
        self.writer = Writer()

    def decode_request(self, request: Json) -> Json:
        return request

    def predict(self, request: Json) -> list[Json]:
        return run_all([request], self.writer, self.slots, self.step_s)[0]

    def encode_response(self, results: list[Json]) -> Json:
        return {"results": results}


class BatchedApi(PlainApi):
    """Requests that have come at the same time run together."""

    def batch(self, requests: list[Json]) -> list[Json]:
        return requests

    def predict(self, requests: list[Json]) -> list[list[Json]]:
        return run_all(requests, self.writer, self.slots, self.step_s)

    def unbatch(self, results: list[list[Json]]) -> list[list[Json]]:
        return results


class AsyncApi(PlainApi):
    """Many requests at once, which share the slots."""

    def setup(self, device: str) -> None:
        super().setup(device)
        self.running: Slots[asyncio.Future[None]] = Slots(self.slots, self.step_s)
        self.stepping: asyncio.Task[None] | None = None

    async def decode_request(self, request: Json) -> Json:
        return request

    async def predict(self, request: Json) -> list[Json]:
        shared = request["sampling_params"]
        written = [self.writer.write(index, item, shared) for index, item in enumerate(request["prompts"])]
        if self.step_s and written:
            loop, now = asyncio.get_running_loop(), time.monotonic()
            futures = [loop.create_future() for _ in written]
            for future, (_, steps) in zip(futures, written, strict=True):
                self.running.add(future, steps, now)
            if self.stepping is None or self.stepping.done():
                self.stepping = loop.create_task(self.step())
            await asyncio.gather(*futures)
        return [result for result, _ in written]

    async def step(self) -> None:
        """Until nothing runs."""
        while (wait_s := self.running.wait_s(time.monotonic())) is not None:
            await asyncio.sleep(wait_s)
            for future in self.running.advance(time.monotonic()):
                future.set_result(None)

    async def encode_response(self, results: list[Json]) -> Json:
        return {"results": results}


def main() -> None:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_service_flags(parser)
    parser.add_argument("--form", choices=["async", "batched", "plain"], required=True)
    parser.add_argument("--fast-queue", action="store_true", help="ZeroMQ between the processes")
    given = parser.parse_args()
    slots, step_s = given.slots, given.step_ms / 1e3
    if given.form == "async":
        api: PlainApi = AsyncApi(slots, step_s, enable_async=True)
    elif given.form == "batched":
        api = BatchedApi(slots, step_s, max_batch_size=MOST_REQUESTS, batch_timeout=BATCH_TIMEOUT_S)
    else:
        api = PlainApi(slots, step_s)
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        devices=1,
        workers_per_device=given.workers,
        timeout=False,  # a batch takes as long as it takes
        fast_queue=given.fast_queue,
    )
    server.run(
        host="127.0.0.1",
        port=given.port,
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()
