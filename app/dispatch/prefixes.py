"""What long prompts have in common: an engine that has computed a beginning need not compute it again, as long as it
lies in its cache."""

from collections import Counter
from zlib import crc32

# Bytes of a prompt, some 250 tokens and more: what is shorter is computed as fast as found.
SIZES = (1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
SHORTEST = SIZES[0]
Prefix = int  # stands for one beginning, of one length. Who forges one gains a rank, and no more


def size_of(prefix: Prefix) -> int:
    """Bytes of a prompt that it stands for."""
    return prefix >> 32


def prefixes_of(prompt: bytes) -> tuple[Prefix, ...]:
    """One for each size that the prompt has: equal for prompts that begin alike, and of all lengths different."""
    found: list[int] = []
    start = checksum = 0
    for size in SIZES:
        if len(prompt) < size:
            break
        checksum = crc32(prompt[start:size], checksum)
        found.append(size << 32 | checksum)
        start = size
    return tuple(found)


def common_bytes(one: bytes, other: bytes, known: int) -> int:
    """How many bytes they begin with alike, of which so many are known to be."""
    most = min(len(one), len(other))
    least = min(known, most)
    while least < most:
        middle = (least + most + 1) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least


class RunningPrefixes:
    """The beginnings of the prompts that a rank runs."""

    def __init__(self) -> None:
        self._counts: Counter[Prefix] = Counter()
        self._latest: dict[Prefix, bytes] = {}  # a prompt with this beginning

    def __len__(self) -> int:
        return len(self._latest)

    def add(self, prompt: bytes, prefixes: tuple[Prefix, ...]) -> None:
        """It runs."""
        for prefix in prefixes:
            self._counts[prefix] += 1
            self._latest[prefix] = prompt

    def remove(self, prefixes: tuple[Prefix, ...]) -> None:
        """A prompt with these has ended."""
        for prefix in prefixes:
            self._counts[prefix] -= 1
            if not self._counts[prefix]:
                del self._counts[prefix], self._latest[prefix]

    def bytes_of(self, prompt: bytes, prefixes: tuple[Prefix, ...]) -> int:
        """How much of a prompt is the beginning of one that runs."""
        longest = next((prefix for prefix in reversed(prefixes) if prefix in self._latest), None)
        return 0 if longest is None else common_bytes(self._latest[longest], prompt, size_of(longest))
