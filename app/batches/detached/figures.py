"""How a detached batch goes on while it runs."""

import msgspec


class Figures(msgspec.Struct, frozen=True):
    """Of a batch's run, as it goes on now. Nothing of a batch that does not run."""

    running: int = 0  # items
    tokens_per_s: float | None = None
    predicted_s_left: float | None = None
