"""Requests of OpenAI's API whose client, rank or service goes away, or that wait, or whose client is slow."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.exchanging import COMPLETIONS, DONE, Leaving, ask, streaming, texts_of
from tests.service import Json, Service, as_object, serving, until

KEEPALIVE_S = 0.3
SOON_S = 10.0  # what they ask for would take forty
LONG = {"prompt": "a long story", "max_tokens": 2000}
MIDSTREAM = {"crash_midstream_on": "midstream", "crash_on": "poison"}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """A rank of one sequence, so that who comes second waits."""
    flags = ("--keepalive-s", f"{KEEPALIVE_S}", "--prefetch", "0")
    with serving(*flags, dp_size=1, step_ms=20, max_num_seqs=1) as service:
        yield service


@pytest.mark.parametrize(
    ("stream", "events"),
    [(False, 0), (True, 0), (True, 3)],
    ids=["whole", "before the first byte", "in the midst"],
)
def test_a_client_that_goes_frees_the_engine_at_once(service: Service, stream: bool, events: int) -> None:
    client = Leaving(service, COMPLETIONS, **LONG, stream=stream)
    client.read_events(events)
    until(lambda: service.metric("simulated:num_requests_running") == 1, "it does not run")
    client.leave()
    until(lambda: service.metric("simulated:num_requests_running") == 0, "it runs on", SOON_S)
    until(service.is_idle, "it is not forgotten", SOON_S)
    assert service.metric("phalanx_held_bytes") == 0


@pytest.mark.parametrize("items", [10, 50, 90])
def test_a_client_that_goes_is_noticed_whatever_the_size_of_its_body(service: Service, items: int) -> None:
    """What comes of a body is held back until somebody asks for it, and nobody asks for more than all of it."""
    prompts = ["word " * 1000] * items
    client = Leaving(service, COMPLETIONS, prompt=prompts, max_tokens=2000)
    until(lambda: service.metric("simulated:num_requests_running") == 1, "it does not run")
    client.leave()
    until(service.is_idle, "it is not forgotten", SOON_S)


def test_a_client_that_goes_while_it_waits_is_forgotten(service: Service) -> None:
    with streaming(service, COMPLETIONS, **LONG) as first:
        next(iter(first))
        waiting = Leaving(service, COMPLETIONS, prompt="another", max_tokens=5)
        until(lambda: service.metric("phalanx_active_exchanges") == 2, "it does not come")
        waiting.leave()
        until(lambda: service.metric("phalanx_active_exchanges") == 1, "it waits on", SOON_S)
    until(service.is_idle, "something is left", SOON_S)


def test_a_stream_that_waits_is_kept_alive_by_comments(service: Service) -> None:
    with streaming(service, COMPLETIONS, prompt="the first", max_tokens=100) as first:
        next(iter(first))
        with ThreadPoolExecutor(1) as aside:
            rest = aside.submit(lambda: list(first))
            with streaming(service, COMPLETIONS, prompt="the second", max_tokens=3) as second:
                events = list(second)
            assert rest.result()[-1] == DONE
    assert second.comments >= 2
    assert events[-1] == DONE
    alone = ask(service, COMPLETIONS, prompt="the second", max_tokens=3).json()
    assert texts_of(events) == {0: alone["choices"][0]["text"]}


def test_what_is_refused_after_a_comment_is_an_event(service: Service) -> None:
    """The status was sent with the comment."""
    with streaming(service, COMPLETIONS, prompt="the first", max_tokens=100) as first:
        next(iter(first))
        with ThreadPoolExecutor(1) as aside:
            rest = aside.submit(lambda: list(first))
            with streaming(service, COMPLETIONS, prompt="the second", max_tokens=3, logprobs=2) as second:
                (event,) = list(second)
            rest.result()
    assert isinstance(event, dict)
    assert event["error"]["type"] == "invalid_request_error"


def test_a_service_that_ends_lets_streams_finish() -> None:
    with (
        serving(dp_size=1, step_ms=20) as service,
        streaming(service, COMPLETIONS, prompt="x", max_tokens=50) as stream,
    ):
        seen = iter(stream)
        first = next(seen)
        service.signal()
        rest = list(seen)
        assert len([event for event in (first, *rest) if isinstance(event, dict)]) >= 50
        assert rest[-1] == DONE
        assert service.wait() == 0


def test_a_second_signal_ends_a_service_at_once_and_without_a_fault() -> None:
    with serving(dp_size=1, step_ms=20) as service:
        client = Leaving(service, COMPLETIONS, **LONG, stream=True)
        client.read_events(1)
        service.signal()
        until(lambda: service.facts("draining"), "it does not drain")
        service.signal()
        assert service.wait() == 0
        assert not service.facts("unhandled_failure")
        client.leave()


def test_a_lost_rank_is_not_noticed_before_the_first_byte() -> None:
    """What nobody has seen the beginning of runs again; what somebody has ends with an event that says so."""
    with serving("--restart-backoff-s", "50ms", dp_size=2, step_ms=20) as service:
        service.errors_expected = True
        whole = {"prompt": "to be run twice", "max_tokens": 40}
        before = ask(service, COMPLETIONS, **whole).json()["choices"]
        with ThreadPoolExecutor(8) as aside, streaming(service, COMPLETIONS, prompt="seen", max_tokens=200) as stream:
            seen = iter(stream)
            next(seen)
            (rank,) = [rank["rank"] for rank in service.ranks() if rank["held"]]
            answers = [aside.submit(ask, service, COMPLETIONS, **whole) for _ in range(8)]
            until(lambda: sum(service.held) == 9, "they do not run")
            (killed,) = service.titled(f"phalanx-rank {rank}")
            os.kill(killed, signal.SIGKILL)
            *_, last = seen
            assert isinstance(last, dict)
            assert last["error"]["code"] == "rank_lost"
            for answer in answers:
                assert (answer.result().status_code, answer.result().json()["choices"]) == (200, before)
        until(service.is_idle, "something is left")
        ended = {status: service.metric("phalanx_exchanges_total", status=status) for status in ("ok", "error")}
        assert ended == {"ok": 9, "error": 1}, "the stream that was broken off has no answer, and is counted once"


def test_what_crashes_its_engine_is_convicted_and_then_refused() -> None:
    """In the midst of a stream, too: its client hears of it at once, and it is tried with nobody to hear it."""
    with serving("--restart-backoff-s", "50ms", dp_size=1, step_ms=5, **MIDSTREAM) as service:
        service.errors_expected = True
        with streaming(service, COMPLETIONS, prompt="midstream", max_tokens=20) as stream:
            *_, last = stream
        assert isinstance(last, dict)
        assert last["error"]["code"] == "rank_lost"
        until(lambda: service.metric("phalanx_items_poisoned_total") == 1, "it is not convicted")
        service.wait_ready()
        refused = ask(service, COMPLETIONS, prompt="midstream", max_tokens=20, stream=True)
        assert (refused.status_code, _code(refused.text)) == (400, "poisoned")
        first = ask(service, COMPLETIONS, prompt="poison", max_tokens=5)
        restarts = service.wait_ready().ranks()[0]["restarts"]
        again = ask(service, COMPLETIONS, prompt="poison", max_tokens=5)
        assert [(answer.status_code, _code(answer.text)) for answer in (first, again)] == [(400, "poisoned")] * 2
        assert service.ranks()[0]["restarts"] == restarts
        assert ask(service, COMPLETIONS, prompt="well", max_tokens=5).status_code == 200


def test_a_slow_reader_is_no_stall_and_takes_no_memory() -> None:
    """All is made, and the client has taken a little: nothing happens for longer than a rank may stand still."""
    with serving("--stall-timeout-s", "1.5", dp_size=1, max_model_len=40_000, step_ms=0.05) as service:
        with streaming(service, COMPLETIONS, prompt="x", max_tokens=30_000) as stream:
            seen = iter(stream)
            next(seen)
            until(lambda: service.metric("simulated:num_requests_running") == 0, "it is not made", 60)
            time.sleep(3.5)
            assert service.ranks()[0]["restarts"] == 0
            assert service.metric("phalanx_held_bytes") < 1_000_000
            assert ask(service, COMPLETIONS, prompt="another", max_tokens=3).status_code == 200
            events = list(seen)
        assert events[-1] == DONE
        assert len(events) == 30_000 - 1 + 1  # but for the first, and with the end


def _code(text: str) -> str:
    error: Json = as_object(text)["error"]
    return str(error["code"])
