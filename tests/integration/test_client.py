"""phalanx.Client and phalanx.AsyncClient against a service of simulated ranks."""

import asyncio
import signal
from collections.abc import Iterator

import pytest

import phalanx
from engines.host.ports import free_port_run
from phalanx.client import (
    ConnectionFailed,
    IncompleteAnswer,
    InvalidRequest,
    ItemFailed,
    NotFound,
    TooLarge,
    TryLater,
)
from phalanx.client.exchange import Prompt
from tests.service import Service, serving, until

SHORT = {"max_tokens": 4, "ignore_eos": True}
ENDLESS = {"max_tokens": 1900, "ignore_eos": True}
MOST_ITEMS = 300


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    flags = ("--max-batch-items", str(MOST_ITEMS), "--max-waiting-items", str(MOST_ITEMS))
    with serving(*flags, step_ms=5, max_num_seqs=16) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[phalanx.Client]:
    with phalanx.Client(service.url, patience_s=20) as client:
        yield client


def test_results_come_one_by_one_and_each_prompt_has_one(client: phalanx.Client) -> None:
    prompts: list[Prompt] = [f"prompt {index}" for index in range(100)]
    stream = client.generate(prompts, sampling_params=SHORT)
    assert stream.summary is None
    results = list(stream)
    assert sorted(result.index for result in results) == list(range(100))
    assert all(result.ok and result.text and result.usage.completion_tokens == 4 for result in results)
    assert stream.summary is not None
    assert (stream.summary.request_counts.ok, stream.summary.usage.completion_tokens) == (100, 400)
    assert stream.progress is not None and stream.progress.id == stream.summary.id


def test_prompts_of_a_generator_may_be_more_than_a_request_holds(client: phalanx.Client) -> None:
    count = MOST_ITEMS * 2
    stream = client.generate((f"prompt {index}" for index in range(count)), sampling_params=SHORT)
    assert sorted(result.index for result in stream if result.ok) == list(range(count))
    assert stream.summary is not None and stream.summary.request_counts.total == count


def test_a_generator_that_fails_gives_its_batch_up(client: phalanx.Client, service: Service) -> None:
    def prompts() -> Iterator[Prompt]:
        for index in range(20):
            yield f"prompt {index} {'x' * 10_000}"
        until(lambda: sum(service.held), "it does not run")
        raise LookupError("no more")

    with pytest.raises(LookupError):
        list(client.generate(prompts(), sampling_params=ENDLESS))
    until(service.is_idle, "the batch still runs")


def test_items_of_all_kinds_and_what_they_hand_back(client: phalanx.Client) -> None:
    prompts: list[Prompt] = [
        "text",
        [1, 2, 3],
        {"custom_id": "a", "messages": [{"role": "user", "content": "Hi"}], "metadata": {"row": 7}},
        {"custom_id": "b", "prompt": "x", "sampling_params": {"temperature": -1}},
    ]
    results = {r.index: r for r in client.generate(prompts, sampling_params=SHORT, return_prompt=True)}
    assert (results[1].prompt, results[2].custom_id, results[2].metadata) == ([1, 2, 3], "a", {"row": 7})
    failed = results[3]
    assert not failed.ok and failed.error is not None and failed.error.code == "invalid_sampling_params"
    with pytest.raises(ItemFailed, match="temperature") as raised:
        _ = failed.text
    assert raised.value.code == "invalid_sampling_params" and not raised.value.retryable


def test_whoever_leaves_the_stream_frees_the_ranks(client: phalanx.Client, service: Service) -> None:
    with client.generate([{"prompt": "short", "sampling_params": SHORT}, *["long"] * 20], sampling_params=ENDLESS) as s:
        assert next(s).index == 0
    until(service.is_idle, "the batch still runs")
    assert s.summary is None
    assert list(s) == []


@pytest.mark.parametrize(
    ("prompts", "options", "error", "words"),
    [
        (["x"], {"model": "another"}, NotFound, "not served here"),
        (["x"], {"sampling_params": {"top_p": 7}}, InvalidRequest, "top_p"),
        (["x"], {"surprise": 1}, InvalidRequest, "surprise"),
        (["x"] * (MOST_ITEMS + 1), {}, TooLarge, "max-batch-items"),
    ],
    ids=["model", "parameter", "field", "size"],
)
def test_a_refusal_is_an_exception_of_its_kind(
    prompts: list[Prompt],
    options: phalanx.client.exchange.BatchOptions,
    error: type[phalanx.client.Refused],
    words: str,
    client: phalanx.Client,
) -> None:
    with pytest.raises(error, match=words) as raised:
        next(client.generate(prompts, **options))
    assert raised.value.request_id and 400 <= raised.value.status < 500


def test_a_full_service_is_asked_again_as_long_as_one_has_patience(service: Service, client: phalanx.Client) -> None:
    with service.begin(["long"] * MOST_ITEMS, sampling_params=ENDLESS) as before:
        until(lambda: sum(service.held) > 0, "it does not run")
        with (
            phalanx.Client(service.url, patience_s=0) as hasty,
            pytest.raises(TryLater, match="no room") as raised,
        ):
            next(hasty.generate(["x"] * MOST_ITEMS, sampling_params=SHORT))
        assert raised.value.retry_after_s is not None and raised.value.retry_after_s > 0
        before.hang_up()
        assert len(list(client.generate(["x"] * MOST_ITEMS, sampling_params=SHORT))) == MOST_ITEMS


def test_an_asynchronous_client_does_the_same(service: Service) -> None:
    async def run() -> None:
        async with phalanx.AsyncClient(service.url) as client:
            stream = client.generate(["x"] * 50, sampling_params=SHORT)
            assert sorted([result.index async for result in stream]) == list(range(50))
            assert stream.summary is not None and stream.summary.request_counts.ok == 50
            lines = client.generate((f"{index}" for index in range(MOST_ITEMS * 2)), sampling_params=SHORT)
            assert sorted([result.index async for result in lines]) == list(range(MOST_ITEMS * 2))
            async with client.generate(["long"] * 20, sampling_params=ENDLESS) as left:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await anext(left)
            with pytest.raises(InvalidRequest, match="top_p"):
                await anext(client.generate(["x"], sampling_params={"top_p": 7}))

    asyncio.run(run())
    until(service.is_idle, "the batch still runs")


def test_nobody_there_is_said_at_once() -> None:
    url = f"127.0.0.1:{free_port_run(1)}"
    with phalanx.Client(url) as client, pytest.raises(ConnectionFailed, match=f"nobody answers at http://{url}"):
        next(client.generate(["x"]))


def test_an_answer_that_breaks_off_is_no_whole_one() -> None:
    service = Service(step_ms=5)
    service.errors_expected = True
    service.start()
    try:
        service.wait_ready()
        with phalanx.Client(service.url) as client:
            stream = client.generate([{"prompt": "s", "sampling_params": SHORT}, *["x"] * 5], sampling_params=ENDLESS)
            assert next(stream).index == 0
            service.signal(signal.SIGKILL)
            with pytest.raises(IncompleteAnswer, match="batchgen-"):
                list(stream)
    finally:
        service.discard()
