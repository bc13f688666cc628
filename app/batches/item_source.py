"""Items of a batch as whoever keeps them hands them out."""

import msgspec


class SourceItem(msgspec.Struct, frozen=True):
    """A prompt, as JSON, and its place in the batch."""

    index: int
    body: bytes
