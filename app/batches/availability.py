"""Whether the service takes work now, and why not: asked before a request's body is read, and once it is taken in."""

from app.dispatch.dispatcher import Dispatcher
from app.errors import TryLater
from app.ranks.fleet import Fleet
from app.ranks.rank import Rank, RankState

LOADING_RETRY_S = 5.0


class Availability:
    """Open while any rank takes items and the service is not ending."""

    def __init__(self, fleet: Fleet, dispatcher: Dispatcher) -> None:
        self._fleet = fleet
        self._dispatcher = dispatcher
        self.is_draining = False

    @property
    def takes_items(self) -> bool:
        """Whether any rank does."""
        return self._dispatcher.takes_items

    def check_open(self) -> None:
        """Raises TryLater while the service is ending."""
        if self.is_draining:
            raise self.unavailable("the service is shutting down", "shutting_down")

    def check(self) -> None:
        """Raises TryLater while nothing can run."""
        self.check_open()
        if not self.takes_items:
            raise self.unavailable(self.reason, "no_rank_ready")

    def unavailable(self, reason: str, code: str) -> TryLater:
        """A 503 with the reason."""
        return TryLater(
            f"{reason}: try again in {LOADING_RETRY_S:.0f} s", status=503, code=code, retry_after_s=LOADING_RETRY_S
        )

    @property
    def reason(self) -> str:
        """Why not all ranks are ready, in words that everybody may read."""
        if self.is_draining:
            return "the service is shutting down"
        waiting = [rank for rank in self._fleet.ranks if not rank.is_ready]
        if not waiting:
            return "all ranks are ready"
        if self._fleet.plan is None:
            return "no rank is ready: the model's configuration is being read"
        parts = "; ".join(f"rank {rank.number} is {rank.state}{_detail(rank)}" for rank in waiting)
        if waits_for := self._fleet.hosts.waits_for:
            parts += f"; {waits_for}"
        return f"{'not all ranks are' if self._dispatcher.takes_items else 'no rank is'} ready: {parts}"


def _detail(rank: Rank) -> str:
    """How far it is, or why it is down; for one that starts again, both."""
    parts = [f"stage {rank.stage}"] if rank.state is RankState.STARTING else []
    if rank.error_line:
        parts.append(f"after: {rank.error_line}" if parts else rank.error_line)
    return f" ({', '.join(parts)})" if parts else ""
