"""The service as a job uses it: a detached batch is sent, taken up again by its id, read, and cancelled.

phalanx.Client does it. Which of its methods are relied on stands here, and its errors become those of the command here.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

from phalanx.address import ImpossibleKey
from phalanx.client import (
    BatchInfo,
    Client,
    InvalidRequest,
    NotAuthorized,
    NotFound,
    PhalanxError,
    Progress,
    Result,
    ResultError,
    TooLarge,
)
from phalanx.generate.errors import ServiceProblem, UsageProblem
from phalanx.generate.spool import Entry

PATIENCE_S = 600.0  # with a service that is away


class SentResults(Protocol):
    """Results as they come, over broken connections."""

    @property
    def progress(self) -> Progress | None: ...
    def __iter__(self) -> Iterator[Result]: ...


class SentBatch(Protocol):
    """A detached batch."""

    @property
    def id(self) -> str: ...
    def refresh(self) -> BatchInfo:
        """Asks for its state."""

    def results(self, after: int = 0, *, follow: bool = True) -> SentResults:
        """Results after a seq, and with `follow` until the batch has ended."""

    def cancel(self) -> BatchInfo:
        """Ends it."""

    def wait(self) -> BatchInfo:
        """How it is once it has ended."""

    def resume(self, timeout_s: float | None = None) -> BatchInfo:
        """Runs what has no result."""


class Service(Protocol):
    """Where batches are sent."""

    def submit(
        self,
        prompts: Iterable[Any],  # Any: JSON
        *,
        idempotency_key: str,
        **options: Any,
    ) -> SentBatch:
        """Sends a batch. The same key and prompts give the same batch again."""

    def batch(self, id: str) -> SentBatch:  # noqa: A002  as the client names it
        """A batch that was sent before."""

    def batches(self, *, limit: int) -> Iterator[object]:
        """The newest batches."""

    def close(self) -> None:
        """Closes its connections."""


def connect(
    url: str, api_key: str | None, patience_s: float, on_wait: Callable[[PhalanxError, float], None]
) -> Service:
    """The service at a URL. `on_wait` hears of what is tried again, and in how many seconds. Raises UsageProblem."""
    try:
        return cast(Service, Client(url, api_key=api_key, patience_s=patience_s, on_wait=on_wait))
    except ImpossibleKey as error:
        raise UsageProblem(f"{error}: set PHALANX_API_KEY, or --api-key, anew") from None


def row_entry(result: Result, batch: int) -> Entry:
    """A result of the job's nth batch as the spool keeps it. Raises ServiceProblem for one of no row."""
    if result.custom_id is None or not result.custom_id.isdecimal():
        raise ServiceProblem(f"the service sent a result for {result.custom_id!r}, which is no row of this job")
    error = result.error
    if error is None and result.status != "ok":
        error = ResultError(result.status, f"the item ended as {result.status}")
    return Entry(
        batch=batch,
        seq=result.seq or 0,
        row=int(result.custom_id),
        status=result.status,
        texts=[output.text for output in result.outputs],
        finish_reasons=[output.finish_reason for output in result.outputs],
        prompt_tokens=result.usage.prompt_tokens,
        completion_tokens=result.usage.completion_tokens,
        code=error.code if error else None,
        error=error.message if error else None,
    )


@contextmanager
def explained() -> Iterator[None]:
    """The client's errors become the command's: what must be changed, and what may be better next time."""
    try:
        yield
    except NotAuthorized as error:
        raise UsageProblem(f"{error}: give an API key with PHALANX_API_KEY or --api-key") from None
    except (InvalidRequest, NotFound, TooLarge) as error:
        raise UsageProblem(f"the service refuses the batch: {error}") from None
    except PhalanxError as error:
        raise ServiceProblem(str(error)) from None
