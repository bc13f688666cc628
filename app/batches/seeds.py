"""Seeds of items, derived from the batch's: random numbers depend neither on the rank, nor the order, nor retries.

The seed of an item is the first 62 bits of BLAKE2b, of 8 bytes, over ``phalanx-seed:{seed}:id:{custom_id}``, or over
``phalanx-seed:{seed}:index:{index}`` for an item without a custom_id. It is published so that anyone can compute it.
"""

from hashlib import blake2b

SEED_BITS = 62


def derive_seed(seed: int, custom_id: str | None, index: int) -> int:
    """The seed of one item of a batch that has `seed`: 0 to 2**62 - 1."""
    key = f"index:{index}" if custom_id is None else f"id:{custom_id}"
    digest = blake2b(f"phalanx-seed:{seed}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - SEED_BITS)
