"""Seeds of items: those that are derived are published, so they never change; an item's own is one vLLM can hold."""

import msgspec
import pytest

from app.batches.sampling import ParamsRefused, SamplingResolver
from app.batches.seeds import derive_seed
from app.settings.declaration import Settings


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


# ---------------------------------------------------------------- an item's own


def resolver(batch_wide: object = None) -> SamplingResolver:
    return SamplingResolver(Settings(), None if batch_wide is None else msgspec.json.encode(batch_wide))


@pytest.mark.parametrize("seed", [0, 1, 2**62, 2**63 - 4, -4, -(2**63)])
def test_outputs_whose_seeds_vllm_can_hold_are_accepted(seed: int) -> None:
    n = 3 if seed == -4 else 4
    own = msgspec.json.encode({"seed": seed, "n": n})
    assert resolver().of_item(own, "prompts[0]").seed == seed
    assert resolver({"n": n}).of_item(b'{"seed":%d}' % seed, "prompts[0]").seed == seed


@pytest.mark.parametrize(
    ("seed", "n", "why"),
    [
        (2**63 - 1, 2, "the last output's seed would have more than 64 bits, choose a lower seed"),
        (2**63 - 4, 5, "the last output's seed would have more than 64 bits, choose a lower seed"),
        (-2, 2, "one output's seed would be -1, which is none, choose another seed"),
        (-4, 100, "one output's seed would be -1, which is none, choose another seed"),
    ],
)
def test_an_items_seed_is_refused_where_vllm_cannot_count_on_from_it(seed: int, n: int, why: str) -> None:
    """Each further output of an item gets the next seed."""
    for batch_wide, own in (
        (None, {"seed": seed, "n": n}),
        ({"n": n}, {"seed": seed}),
        ({"seed": 7}, {"seed": seed, "n": n}),
    ):
        with pytest.raises(ParamsRefused) as refused:
            resolver(batch_wide).of_item(msgspec.json.encode(own), "prompts[3]")
        found = refused.value.complaint
        assert found.param == "prompts[3].sampling_params.seed"
        assert found.message == f"sampling_params.seed is {seed} and n is {n}: {why}"
    resolver({"seed": seed, "n": n})  # items have seeds of their own, derived from it


def test_minus_one_is_no_seed_as_in_vllm() -> None:
    assert resolver({"seed": -1}).batch_wide.seed is None
    own = resolver({"seed": 5}).of_item(b'{"seed":-1}', "prompts[0]")
    assert (own.seed, own.seed_is_own) == (None, True)
