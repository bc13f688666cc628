"""The states of a stored batch, and which may follow which."""

from enum import StrEnum


class BatchState(StrEnum):
    """Where a batch stands."""

    RECEIVING = "receiving"  # its items come in; nobody sees it, and a restart removes it
    QUEUED = "queued"  # all items are durable, none was dispatched in this life of the gateway
    IN_PROGRESS = "in_progress"
    HELD = "held"  # nothing of it runs until its reason is gone
    CANCELLING = "cancelling"  # nothing more of it is dispatched; what runs is being given up
    COMPLETED = "completed"  # every item has its result
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # its time was over
    FAILED = "failed"  # the batch as a whole cannot run


class BatchKind(StrEnum):
    """Whose API a batch came by, and what its results are."""

    GENERATION = "batch_generation"  # ours
    OPENAI = "openai"  # each result is a line of its output file or of its error file


class OutputKind(StrEnum):
    """Which results of a batch are the lines of a file."""

    OUTPUT = "output"  # those that are ok
    ERROR = "error"  # all others


class ResultStatus(StrEnum):
    """How an item ended."""

    OK = "ok"
    ERROR = "error"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


class OpenAIBatchStatus(StrEnum):
    """Where a batch of OpenAI's API stands, in its words. Its run has a state of its own, a BatchState."""

    VALIDATING = "validating"  # its input file is being read
    FAILED = "failed"  # something is wrong with the file, and nothing of it ran; or its run has failed
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"  # every line has its answer, and its files get their last lines
    COMPLETED = "completed"  # also when all lines have failed
    EXPIRED = "expired"  # its completion window was over; what was finished is kept
    CANCELLING = "cancelling"  # nothing more of it is started
    CANCELLED = "cancelled"  # what was finished is kept


ENDED = frozenset({BatchState.COMPLETED, BatchState.CANCELLED, BatchState.EXPIRED, BatchState.FAILED})
OPEN = frozenset({BatchState.QUEUED, BatchState.IN_PROGRESS, BatchState.HELD, BatchState.CANCELLING})
TAKES_RESULTS = OPEN | {BatchState.RECEIVING}  # the latter: items that are refused as they come
REST = {  # what the items without a result count as when the batch ends
    BatchState.CANCELLED: ResultStatus.CANCELLED,
    BatchState.EXPIRED: ResultStatus.TIMEOUT,
    BatchState.FAILED: ResultStatus.ERROR,
}
_NEXT = {
    BatchState.RECEIVING: {BatchState.QUEUED},
    BatchState.QUEUED: {BatchState.IN_PROGRESS, BatchState.HELD, BatchState.CANCELLING} | ENDED,
    # Back to queued: a graceful stop, after which a restart is not counted against it.
    BatchState.IN_PROGRESS: {BatchState.QUEUED, BatchState.HELD, BatchState.CANCELLING} | ENDED,
    BatchState.HELD: {BatchState.QUEUED, BatchState.IN_PROGRESS, BatchState.CANCELLING} | ENDED,
    BatchState.CANCELLING: ENDED,
}


def may_follow(state: BatchState, following: BatchState) -> bool:
    """Whether a batch may go from one state to another. What has ended goes on by being resumed only."""
    return following in _NEXT.get(state, ())


OPENAI_ENDED = frozenset(
    {
        OpenAIBatchStatus.FAILED,
        OpenAIBatchStatus.COMPLETED,
        OpenAIBatchStatus.EXPIRED,
        OpenAIBatchStatus.CANCELLED,
    }
)
_OPENAI_NEXT = {
    OpenAIBatchStatus.VALIDATING: OPENAI_ENDED - {OpenAIBatchStatus.COMPLETED}
    | {OpenAIBatchStatus.IN_PROGRESS, OpenAIBatchStatus.CANCELLING},
    OpenAIBatchStatus.IN_PROGRESS: OPENAI_ENDED | {OpenAIBatchStatus.FINALIZING, OpenAIBatchStatus.CANCELLING},
    OpenAIBatchStatus.FINALIZING: OPENAI_ENDED | {OpenAIBatchStatus.CANCELLING},
    OpenAIBatchStatus.CANCELLING: OPENAI_ENDED,
}


def openai_may_follow(status: OpenAIBatchStatus, following: OpenAIBatchStatus) -> bool:
    """The same for a batch of OpenAI's API. One that is being cancelled may have completed before."""
    return following in _OPENAI_NEXT.get(status, ())
