"""A client of Phalanx for Python programs: `phalanx.Client` and `phalanx.AsyncClient`."""

from phalanx.batch_status import BatchStatus
from phalanx.client.async_batch import AsyncBatch
from phalanx.client.async_client import AsyncClient
from phalanx.client.async_io import AsyncResultStream
from phalanx.client.batch_info import BatchInfo
from phalanx.client.errors import (
    Conflict,
    ConnectionFailed,
    IncompleteAnswer,
    InvalidRequest,
    ItemFailed,
    MaybeAccepted,
    NotAuthorized,
    NotFound,
    PhalanxError,
    Refused,
    ServiceFailed,
    TooLarge,
    TryLater,
)
from phalanx.client.results import Counts, Output, Progress, Result, ResultError, Summary, Usage
from phalanx.client.sync_batch import Batch
from phalanx.client.sync_client import Client
from phalanx.client.sync_io import ResultStream

__all__ = [
    "AsyncBatch",
    "AsyncClient",
    "AsyncResultStream",
    "Batch",
    "BatchInfo",
    "BatchStatus",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "Counts",
    "IncompleteAnswer",
    "InvalidRequest",
    "ItemFailed",
    "MaybeAccepted",
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
