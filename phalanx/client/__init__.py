"""A client of Phalanx for Python programs: `phalanx.Client` and `phalanx.AsyncClient`."""

from phalanx.client.async_client import AsyncClient, AsyncResultStream
from phalanx.client.errors import (
    ConnectionFailed,
    IncompleteAnswer,
    InvalidRequest,
    ItemFailed,
    NotAuthorized,
    NotFound,
    PhalanxError,
    Refused,
    ServiceFailed,
    TooLarge,
    TryLater,
)
from phalanx.client.results import Counts, Output, Progress, Result, ResultError, Summary, Usage
from phalanx.client.sync_client import Client, ResultStream

__all__ = [
    "AsyncClient",
    "AsyncResultStream",
    "Client",
    "ConnectionFailed",
    "Counts",
    "IncompleteAnswer",
    "InvalidRequest",
    "ItemFailed",
    "NotAuthorized",
    "NotFound",
    "Output",
    "PhalanxError",
    "Progress",
    "Refused",
    "Result",
    "ResultError",
    "ResultStream",
    "ServiceFailed",
    "Summary",
    "TooLarge",
    "TryLater",
    "Usage",
]
