"""Batch-wide sampling parameters that came before: checked once, changed by nobody, and not kept for ever."""

import msgspec
import pytest

from app.batches.sampling import KnownParams, ParamsRefused, SamplingResolver
from app.settings.declaration import Settings

SETTINGS = Settings()


def test_what_another_batch_had_is_not_changed_by_its_items() -> None:
    known, raw = KnownParams(), b'{"max_tokens":5,"seed":1}'
    first = SamplingResolver(SETTINGS, raw, known)
    changed = first.of_item(b'{"max_tokens":6,"temperature":0.5,"seed":null}', "prompts[0]")
    assert changed.max_tokens == 6
    again = SamplingResolver(SETTINGS, raw, known)
    assert again.batch_wide == first.batch_wide and again.wire_bytes > 0
    assert msgspec.msgpack.decode(again.batch_wide.wire) == {"max_tokens": 5}


def test_what_is_refused_is_refused_again() -> None:
    known = KnownParams()
    for _ in range(2):
        with pytest.raises(ParamsRefused, match="max_tokens"):
            SamplingResolver(SETTINGS, b'{"max_tokens":0}', known)


def test_neither_many_nor_long_ones_are_kept() -> None:
    known = KnownParams()
    for number in range(1, 3 * KnownParams.MOST):
        found = SamplingResolver(SETTINGS, b'{"max_tokens":%d}' % number, known)
        assert found.batch_wide.max_tokens == number
        assert len(known._fields) <= KnownParams.MOST
    long = b'{"stop":["%s"]}' % (b"x" * KnownParams.MOST_BYTES)
    SamplingResolver(SETTINGS, long, known)
    assert long not in known._fields
