"""Exchanges with a rank's process, over its socket: what comes, and in which order."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from played import Played, play

from engines.contract.exchanges import STREAM_WINDOW_BYTES, Exchange, ExchangeHead
from engines.contract.protocol import Chunk, Chunks, Outcome, PromptKind, Ready, Result, Results, Run, RunItem, Taken

RANK = "import os, sys; from engines.rank import serve; sys.exit(serve.main('runtime/0.1/rank.json', os.environ))"


@contextmanager
def ready_rank(folder: Path, **engine_args: Any) -> Iterator[Played]:
    with play(folder, RANK, engine_args=engine_args) as rank:
        rank.receive(Ready)
        yield rank


def ask(rank: Played, *attempts: int, path: Exchange = Exchange.COMPLETIONS, **body: Any) -> None:
    head = ExchangeHead(path, "1", streams=bool(body.get("stream")))
    items = [RunItem(attempt, PromptKind.EXCHANGE, msgspec.json.encode(body), 0) for attempt in attempts]
    rank.send(Run(incarnation=1, params=[head.encode()], items=items))


def arriving(rank: Played) -> Iterator[Chunk | Result]:
    while True:
        match rank.next():
            case Chunks(chunks=chunks):
                yield from chunks
            case Results(results=results):
                yield from results


def test_streams_come_as_they_are_made_each_before_its_result(tmp_path: Path) -> None:
    with ready_rank(tmp_path, step_ms=5) as rank:
        ask(rank, 1, 2, prompt="Hello", max_tokens=30, stream=True)
        ask(rank, 3, path=Exchange.TOKENIZE, prompt="Hello")
        texts = {1: b"", 2: b""}
        ended: list[int] = []
        for what in arriving(rank):
            assert what.attempt not in ended
            if isinstance(what, Chunk):
                assert (what.head is None) == bool(texts[what.attempt])
                texts[what.attempt] += what.body
            else:
                assert what.outcome is Outcome.OK
                assert (what.head is None) == (what.attempt in texts)
                ended.append(what.attempt)
                if len(ended) == 3:
                    break
        assert ended[0] == 3, "it needs no sequence"
        assert texts[1] == texts[2]
        assert texts[1].count(b"data: ") == 31 and texts[1].endswith(b"data: [DONE]\n\n")


def test_a_stream_that_nobody_takes_stops_at_its_window_and_goes_on_when_it_is_taken(tmp_path: Path) -> None:
    with ready_rank(tmp_path) as rank:
        ask(rank, 1, prompt="Hello", max_tokens=3000, stream=True)
        untaken = told = 0
        for what in arriving(rank):
            if isinstance(what, Result):
                break
            untaken += len(what.body)
            told += len(what.body)
            assert untaken <= STREAM_WINDOW_BYTES
            if untaken > STREAM_WINDOW_BYTES - 1000:
                rank.send(Taken(incarnation=1, taken=[(1, untaken)]))
                untaken = 0
        assert what.completion_tokens == 3000
        assert told > 2 * STREAM_WINDOW_BYTES


def test_a_rank_can_die_in_the_midst_of_a_stream(tmp_path: Path) -> None:
    with ready_rank(tmp_path, step_ms=1, crash_midstream_on="fragile") as rank:
        ask(rank, 1, prompt="fragile", max_tokens=100, stream=True)
        assert all(isinstance(what, Chunk) for what in islice(arriving(rank), 3))
        assert rank.end()[0] == -signal.SIGKILL
