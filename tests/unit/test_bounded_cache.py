"""What is kept for equal encodings: the newest, up to a number and a size."""

from engines.vllm_engine.bounded_cache import BoundedCache


def test_the_least_recently_used_goes_first() -> None:
    cache: BoundedCache[int] = BoundedCache(max_entries=2)
    cache.put(b"a", 1)
    cache.put(b"b", 2)
    assert cache.get(b"a") == 1
    cache.put(b"c", 3)
    assert [cache.get(key) for key in (b"a", b"b", b"c")] == [1, None, 3]


def test_large_ones_let_many_others_go() -> None:
    cache: BoundedCache[int] = BoundedCache(max_entries=100, max_key_bytes=100)
    for number in range(50):
        cache.put(b"%02d" % number, number)
    cache.put(b"x" * 90, 90)
    assert [number for number in range(50) if cache.get(b"%02d" % number) is not None] == [45, 46, 47, 48, 49]
    assert cache.get(b"x" * 90) == 90


def test_one_that_is_larger_than_all_room_is_kept_alone() -> None:
    cache: BoundedCache[int] = BoundedCache(max_key_bytes=10)
    cache.put(b"a", 1)
    cache.put(b"x" * 50, 2)
    assert (cache.get(b"a"), cache.get(b"x" * 50)) == (None, 2)
    cache.put(b"b", 3)
    assert (cache.get(b"x" * 50), cache.get(b"b")) == (None, 3)


def test_an_entry_that_is_put_again_counts_once() -> None:
    cache: BoundedCache[int] = BoundedCache(max_key_bytes=10)
    for number in range(20):
        cache.put(b"12345", number)
    cache.put(b"67890", 0)
    assert cache.get(b"12345") == 19
