"""Phalanx: the command line, and a client for Python programs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phalanx.client import AsyncClient as AsyncClient
    from phalanx.client import Client as Client

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:  # Any: what the name stands for
    """The client is imported when it is asked for: ranks ask for the version alone."""
    if name in ("AsyncClient", "Client"):
        from phalanx import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
