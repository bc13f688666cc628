"""Seeds of items: published, so these values never change."""

import pytest

from app.batches.seeds import derive_seed


@pytest.mark.parametrize(
    ("seed", "custom_id", "index", "published"),
    [
        (0, None, 0, 3969935188010792811),
        (42, None, 0, 2860623618782112279),
        (42, None, 1, 3407264586943832209),
        (42, "fr-1", 0, 4155287839313529433),
        (42, "", 3, 2060894317359124565),
        (-1, None, 7, 492794695400389176),
        (9223372036854775807, "été", 5, 768017738305340706),
    ],
)
def test_the_seed_of_an_item_is_the_published_hash(
    seed: int, custom_id: str | None, index: int, published: int
) -> None:
    assert derive_seed(seed, custom_id, index) == published


def test_a_custom_id_counts_and_not_the_place() -> None:
    assert derive_seed(42, "a", 0) == derive_seed(42, "a", 9)
    assert derive_seed(42, "0", 0) != derive_seed(42, None, 0)


def test_seeds_of_a_large_batch_are_different_and_fit_into_62_bits() -> None:
    seeds = {derive_seed(42, None, index) for index in range(20_000)}
    assert len(seeds) == 20_000
    assert min(seeds) >= 0 and max(seeds) < 2**62
    assert max(seeds) > 2**61
