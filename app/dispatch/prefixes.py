"""What long prompts have in common: an engine that has computed a beginning need not compute it again, as long as it
lies in its cache."""

from zlib import crc32

SIZES = (1024, 4096, 16384)  # bytes of a prompt, some 250 tokens and more: what is shorter is computed as fast as found
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
