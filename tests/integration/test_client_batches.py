"""Detached batches through phalanx.Client, phalanx.AsyncClient and `phalanx batches`, on simulated ranks."""

import asyncio
import json
import signal
import tempfile
from collections.abc import Iterator

import pytest

import phalanx
from engines.host.ports import free_port_run
from phalanx.cli import main
from phalanx.client import Conflict, InvalidRequest, NotFound
from phalanx.client.exchange import Prompt
from tests.service import Service, serving, until

SHORT = {"max_tokens": 4, "ignore_eos": True}
ENDLESS = {"max_tokens": 1900, "ignore_eos": True}
SHORT_AND_ENDLESS: list[Prompt] = [{"prompt": "short", "sampling_params": SHORT}, *["long"] * 20]
WAIT_S = 60


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="px-journal-") as folder:
        place = ("--port", str(free_port_run(1)), "--data-dir", folder)  # the same ones after a kill
        with serving(*place, dp_size=1, step_ms=5, max_num_seqs=32) as running:
            yield running


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[phalanx.Client]:
    with phalanx.Client(service.url, patience_s=20) as client:
        yield client


def code_of(service: Service, *args: str) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main(["batches", *args, "--url", service.url])
    return ended.value.code


def test_a_generators_prompts_are_run_and_their_results_read_again_and_again(client: phalanx.Client) -> None:
    batch = client.submit((f"prompt {index}" for index in range(100)), sampling_params=SHORT, metadata={"row": 7})
    assert (batch.info.metadata, batch.info.request_counts.total) == ({"row": 7}, 100)
    info = batch.wait(WAIT_S)
    assert (info.status, info.request_counts.ok, info.usage.completion_tokens) == ("completed", 100, 400)
    stream = batch.results()
    results = list(stream)
    seqs = [result.seq or 0 for result in results]
    assert sorted(result.index for result in results) == list(range(100)) and all(result.text for result in results)
    assert seqs == sorted(set(seqs)) and seqs[-1] == info.last_seq
    assert stream.summary is not None and stream.summary.status == "completed"
    assert [result.seq for result in batch.results(after=seqs[89])] == seqs[90:]
    batch.delete()
    with pytest.raises(NotFound, match=batch.id):
        batch.refresh()


def test_results_are_there_while_it_runs_and_the_rest_is_cancelled(client: phalanx.Client, service: Service) -> None:
    batch = client.submit(SHORT_AND_ENDLESS, sampling_params=ENDLESS)
    with batch.results() as results:
        first = next(results)
    assert (first.index, first.ok) == (0, True)
    so_far = batch.results(follow=False)
    assert [result.index for result in so_far] == [0]
    assert so_far.summary is None and so_far.progress is not None and so_far.progress.status == "in_progress"
    for refused in (batch.resume, batch.delete):
        with pytest.raises(Conflict) as raised:
            refused()
        assert raised.value.code == "wrong_state"
    with pytest.raises(TimeoutError, match="has not ended after"):
        batch.wait(0.1)
    assert batch.cancel().status in ("cancelling", "cancelled")
    assert batch.wait(WAIT_S).request_counts.cancelled == 20
    rest = list(batch.results(after=first.seq or 0))
    assert sorted(result.index for result in rest) == list(range(1, 21))
    assert {result.status for result in rest} == {"cancelled"}
    until(service.is_idle, "the batch still runs")


def test_a_key_makes_one_batch_of_all_that_is_sent_with_it(client: phalanx.Client) -> None:
    one, again = (client.submit(["x", "y"], idempotency_key="key-1", sampling_params=SHORT) for _ in range(2))
    assert one.id == again.id and again.info.idempotency_key == "key-1"
    with pytest.raises(InvalidRequest) as raised:
        client.submit(["another"], idempotency_key="key-1", sampling_params=SHORT)
    assert (raised.value.status, raised.value.code) == (422, "idempotency_key_reused")
    one.wait(WAIT_S)


def test_batches_are_listed_newest_first(client: phalanx.Client) -> None:
    ids = [client.submit(["x"], sampling_params=SHORT).id for _ in range(3)]
    assert [info.id for info in client.batches(limit=2)] == ids[:0:-1]
    for batch_id in ids:
        client.batch(batch_id).wait(WAIT_S)
    assert {info.status for info in client.batches(["completed"])} == {"completed"}
    assert not {info.id for info in client.batches(["queued", "in_progress"])} & set(ids)


def test_an_asynchronous_client_does_the_same(service: Service) -> None:
    async def run() -> None:
        async with phalanx.AsyncClient(service.url) as client:
            batch = await client.submit((str(number) for number in range(50)), sampling_params=SHORT)
            assert sorted([result.index async for result in batch.results()]) == list(range(50))
            assert (await batch.wait(WAIT_S)).status == "completed"
            assert [info.id async for info in client.batches(limit=1)] == [batch.id]
            await batch.delete()

    asyncio.run(run())


def test_commands_show_read_and_end_batches(
    service: Service, client: phalanx.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = client.submit(["x", {"prompt": "y", "sampling_params": {"temperature": -1}}], sampling_params=SHORT)
    assert code_of(service, "wait", mixed.id) == 3
    assert capsys.readouterr().out == f"{mixed.id} completed: 1 of 2 items are ok\n"
    endless = client.submit(SHORT_AND_ENDLESS, sampling_params=ENDLESS)
    assert code_of(service, "wait", endless.id, "--timeout-s", "0.1") == 5
    assert code_of(service, "cancel", endless.id, "batchgen-0") == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{endless.id} cancel") and "batchgen-0" in err.splitlines()[-1]
    assert code_of(service, "wait", mixed.id, endless.id) == 4
    capsys.readouterr()
    assert code_of(service, "list", "--json", "--limit", "2") == 0
    assert [info["id"] for info in json.loads(capsys.readouterr().out)] == [endless.id, mixed.id]
    assert code_of(service, "results", mixed.id, "--follow") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted((line["index"], line["status"]) for line in lines) == [(0, "ok"), (1, "error")]
    assert code_of(service, "delete", mixed.id, endless.id) == 0


def test_reading_and_waiting_go_on_over_a_gateway_that_was_killed(service: Service) -> None:
    waits: list[str] = []
    with phalanx.Client(service.url, on_wait=lambda error, _: waits.append(str(error))) as client:
        batch = client.submit(["x"] * 100, sampling_params={"max_tokens": 20, "ignore_eos": True})  # 0.1 s an item
        results = batch.results()
        indexes = [next(results).index]
        service.signal(signal.SIGKILL)
        service.wait()
        service.start()
        indexes += [result.index for result in results]
        assert sorted(indexes) == list(range(100))
        assert batch.wait(WAIT_S).request_counts.ok == 100
    assert waits and batch.id in waits[0]
