"""`phalanx.client.Batch`: a detached batch, for programs that wait."""

import time

from phalanx.client import calls, sync_io
from phalanx.client.batch_info import BatchHandle, BatchInfo, decoded
from phalanx.client.calls import Call
from phalanx.client.exchange import Patience
from phalanx.client.following import Following, Waiting
from phalanx.client.sync_io import ResultStream, SyncConnection


class Batch(BatchHandle):
    """A handle of a detached batch, which lives in the service. All methods raise PhalanxError; see BatchHandle."""

    def __init__(self, connection: SyncConnection, id_: str, info: BatchInfo | None = None) -> None:
        super().__init__(id_, info)
        self._connection = connection

    def refresh(self) -> BatchInfo:
        """How it is now."""
        return self._ask(calls.show(self.id))

    def wait(self, timeout_s: float | None = None) -> BatchInfo:
        """How it is once it has ended. A held one is waited for, too: it may be resumed.

        Looks with growing pauses, of 5 s at most, and goes on over a service's outage for `patience_s`. Raises
        TimeoutError when it has not ended by then.
        """
        waiting = Waiting(timeout_s, self._connection.patience_s)
        while True:
            info = self._ask(calls.show(self.id), waiting.patience())
            if info.is_done:
                return info
            time.sleep(waiting.pause_s(self.id))

    def results(self, after: int = 0, *, follow: bool = True) -> ResultStream:
        """Results in the order of `seq`, from the one after `after` on; each item's once.

        Waits for those to come, unless `follow` is false: then it ends with what there is. After a broken connection
        or a restart of the service it goes on where it was, each time for up to `patience_s`. Leaving it cancels
        nothing. Items without a result of their own in an ended batch come last.
        """
        following = Following(self.id, after, self._connection.patience_s, follow=follow)
        return sync_io.follow(self._connection, following)

    def cancel(self) -> BatchInfo:
        """Gives up what has no result yet. One that has ended stays as it is."""
        return self._ask(calls.cancel(self.id))

    def resume(self, timeout_s: float | None = None, expires_after_s: float | None = None) -> BatchInfo:
        """Runs again what has no result, or one that may be retried. Raises Conflict for a batch that runs."""
        return self._ask(calls.resume(self.id, timeout_s, expires_after_s))

    def delete(self) -> None:
        """Removes its prompts and results for good. Raises Conflict while it is open."""
        sync_io.ask(self._connection, calls.delete(self.id))

    def _ask(self, call: Call, patience: Patience | None = None) -> BatchInfo:
        self._info = decoded(BatchInfo, sync_io.ask(self._connection, call, patience))
        return self._info
