"""Why a group could not start, as far as its ranks' logs say more than what was noticed from outside."""

from dataclasses import replace

from app.ranks.events import Loss, LossKind
from app.ranks.rank import Rank
from app.ranks.root_cause import root_cause

LOG_BYTES = 512 * 1024  # of each rank's log: the tracebacks of some fifty processes
PORT_IS_TAKEN = ("address already in use", "eaddrinuse")  # as Python, torch and ZeroMQ say it


def explained(loss: Loss, ranks: list[Rank]) -> Loss:
    """The loss with its cause for a reason, and as a clash of ports if it was one. Reads files: not for the loop."""
    if loss.kind is not LossKind.CANNOT_START:
        return loss
    logs = {rank.number: rank.log_end(LOG_BYTES) for rank in ranks}
    is_clash = any(words in log.lower() for log in logs.values() for words in PORT_IS_TAKEN)
    loss = replace(loss, kind=LossKind.PORT_CLASH if is_clash else loss.kind)
    causes = {number: cause for number, log in logs.items() if (cause := root_cause(log)) is not None}
    own = causes.pop(loss.rank, None)
    if own is not None and own.is_certain:
        return replace(loss, reason=own.text, is_explained=True)
    # A rank may have failed because it waited for another one in vain.
    others = [f"rank {number}: {cause.text}" for number, cause in causes.items() if cause.is_certain]
    if others:
        return replace(loss, reason=others[0], is_explained=True)
    if own is None or own.text in loss.reason:
        return loss
    return replace(loss, reason=f"{loss.reason}; the first error in its log: {own.text}")
