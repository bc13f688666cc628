"""Whether a service that never served anything will ever do so: somebody is waiting for it to come up."""

from collections.abc import Iterable, Sequence

from app.errors import FatalError
from app.ranks.events import LossKind
from app.ranks.group import Group
from app.ranks.rank import Rank

FIRST_STARTS = 2  # that every group may fail before the service gives up
FAILURE_TAIL_LINES = 20  # of a rank's log, printed when the service ends because of it and it names no cause


def failed_first_start(groups: Iterable[Group], group: Group, ranks: Sequence[Rank]) -> FatalError | None:
    """Why the service ends after this group has been lost; None while there is hope."""
    loss = group.loss
    hopeless = all(g.start_failures >= FIRST_STARTS and not g.was_ever_ready for g in groups)
    if loss is None or loss.kind is not LossKind.CANNOT_START or not hopeless:
        return None
    rank = ranks[loss.rank]
    tail = [] if loss.is_explained else rank.log_tail(FAILURE_TAIL_LINES)
    more = "".join(f"\n  {line}" for line in [f"its log is {rank.log.path if rank.log else None}", *tail])
    return FatalError(f"rank {rank.number} could not start: {loss.reason}{more}", 1)
