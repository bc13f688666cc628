"""Prompts that are taken in window by window, and what is said of those that never are."""

import asyncio
from typing import Any

import msgspec
import pytest
from batch_bench import make_run

from app.batches.intake import Intake, label_of
from app.batches.record import Label
from app.batches.request import BatchRequest
from app.batches.sampling import SamplingResolver
from app.batches.turnstile import Turnstile
from app.settings.declaration import Settings


class Windows:
    """A batch whose prompts are taken in bit by bit."""

    def __init__(self, size: int, batch_wide: bytes | None = None, **settings: Any) -> None:
        made = Settings(**settings)
        self.run = make_run(size)
        self.resolver = SamplingResolver(made, batch_wide)
        request = BatchRequest(prompts=msgspec.Raw(b"[]"))
        self.intake = Intake(request, self.resolver, made, self.run, None, self.is_duplicate)
        self.duplicates: set[int] = set()

    def is_duplicate(self, index: int, custom_id: str) -> bool:
        return index in self.duplicates

    def take(self, first: int, *prompts: str, max_wire_bytes: int = 10**6) -> list[int]:
        """The indexes of the items."""
        pairs = [(first + place, prompt.encode()) for place, prompt in enumerate(prompts)]
        return [found.index for found in asyncio.run(self.intake.take(pairs, Turnstile(), max_wire_bytes))]

    def result(self, index: int) -> dict[str, Any]:
        decoded: dict[str, Any] = msgspec.json.decode(self.run.sink.read(index))
        return decoded


def test_a_window_gives_its_own_items_and_refuses_its_own_prompts() -> None:
    windows = Windows(6)
    assert windows.take(0, '"a"', "5", '"b"') == [0, 2]
    assert windows.take(4, '"c"', "{}") == [4]
    assert [found.index for found in windows.run.items] == [0, 2, 4]
    assert [windows.result(index)["status"] for index in (1, 5)] == ["error", "error"]
    assert windows.run.last_taken == 5


def test_who_knows_the_custom_ids_says_which_stand_earlier() -> None:
    windows = Windows(3)
    windows.duplicates.add(2)
    assert windows.take(0, *['{"prompt":"a","custom_id":"x"}'] * 3) == [0, 1]
    assert windows.result(2)["error"]["code"] == "duplicate_custom_id"


def test_parameters_of_former_windows_are_forgotten() -> None:
    windows = Windows(100, b'{"stop":["%s"]}' % (b"x" * 100), max_body_bytes=2000)
    for first in range(0, 100, 5):
        prompts = [f'{{"prompt":"a","sampling_params":{{"max_tokens":{first + i + 1}}}}}' for i in range(5)]
        assert windows.take(first, *prompts) == [first, first + 1, first + 2, first + 3, first + 4]
    assert windows.resolver.wire_bytes < 2000


def test_a_window_ends_where_its_parameters_are_too_many() -> None:
    """A few bytes of an item's own may stand for much that is the batch's."""
    windows = Windows(100, b'{"stop":["%s"]}' % (b"x" * 1000))
    prompts = [f'{{"prompt":"a","sampling_params":{{"max_tokens":{number}}}}}' for number in range(1, 101)]
    assert windows.take(0, *prompts, max_wire_bytes=3500) == [0, 1, 2, 3]
    assert windows.run.last_taken == 3


@pytest.mark.parametrize(
    ("prompt", "label"),
    [
        (b'"a"', Label(prompt=b'"a"')),
        (b"5", Label(prompt=b"5")),
        (b'"\xff"', Label(prompt=b"null")),
        (b'{"prompt":"a","custom_id":"x","metadata":{"row":7}}', Label("x", b'{"row":7}', b'"a"')),
        (b'{"messages":[ {} ],"custom_id":"x","colour":"red"}', Label("x", None, b"[ {} ]")),
        (b'{"custom_id":5}', Label(prompt=b"null")),
        (b"{nonsense}", Label(prompt=b"null")),
    ],
)
def test_the_label_of_a_prompt_that_was_never_taken_in(prompt: bytes, label: Label) -> None:
    assert label_of(prompt, returns_prompts=True) == label
    without = label_of(prompt, returns_prompts=False)
    assert (without.custom_id, without.metadata, without.prompt) == (label.custom_id, label.metadata, None)
