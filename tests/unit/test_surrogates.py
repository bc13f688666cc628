"""Half characters are marked, whole ones and what only looks like an escape are not."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.batches import surrogates
from app.batches.turnstile import Turnstile
from app.validation import HALF_CHARACTER


def marked(text: bytes) -> bytes | None:
    body = bytearray(text)
    return bytes(body) if asyncio.run(surrogates.mark(body, Turnstile())) else None


@pytest.mark.parametrize(
    "text",
    [rb'"a cut emoji \ud83d"', rb'"\uDC00 alone"', rb'"\ud83d\ud83d\ude00"', rb'"\\\ud83d"', rb'"\n\ud83d x"'],
)
def test_one_half_is_marked_and_the_rest_stays(text: bytes) -> None:
    found = marked(text)
    assert found is not None
    assert (found.count(HALF_CHARACTER), len(found)) == (1, len(text))
    with pytest.raises(UnicodeDecodeError):
        found.decode()


@pytest.mark.parametrize("text", [rb'"\ud83d\ude00"', rb'"\\ud83d is no escape"', b'"plain"', rb'"\u00e9"', b""])
def test_what_is_whole_stays(text: bytes) -> None:
    assert marked(text) is None


@given(st.lists(st.sampled_from(["\ud83d", "\ude00", "a", "\\", '"', "\n", "\\ud83d", "é", "😀"]), max_size=30))
def test_it_finds_those_that_no_character_can_be_made_of(parts: list[str]) -> None:
    text = json.dumps("".join(parts)).encode()
    lone = sum(0xD800 <= ord(character) <= 0xDFFF for character in json.loads(text))
    found = marked(text)
    assert (0 if found is None else found.count(HALF_CHARACTER)) == lone


def test_a_pair_on_the_edge_of_a_window_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogates, "WINDOW_BYTES", 16)
    for before in range(40):
        assert marked(b'"' + b"x" * before + rb'\ud83d\ude00"') is None
        assert marked(b'"' + b"x" * before + rb'\ud83d"') is not None


def test_beyond_ten_thousand_nobody_looks() -> None:
    assert marked(rb"\ud83d" * 20_000) is None
