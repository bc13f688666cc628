"""What can go wrong with the journal, one tree.

JournalError
├── JournalRefusal       what was asked for is not possible; nothing was written
│   ├── NoSuchBatch      the batch is not there (any more)
│   ├── NoSuchFile       the file is not there (any more)
│   ├── WrongState       the batch is not in a state that allows it
│   ├── KeyInUse         another batch of the tenant has this idempotency key
│   ├── QuotaExceeded    the tenant, or all together, would store more than they may
│   └── DiskTooFull      what is left of the disk is for batches, and for what removing needs
├── JournalUnavailable   the database cannot write now; it may be able to later, and the journal goes on trying
└── Superseded           another gateway has taken the journal over: this one must not write again

CannotOpen (a FatalError) is for the start, where the operator must act:
├── JournalInUse         another gateway uses it
├── NoJournal            there is none
├── NotAJournal          the file or the database holds something else, or is damaged
├── NewerSchema          a newer version has written it
├── OlderSchema          it has to be upgraded first
├── FolderUnusable       the folder is missing or cannot be written
├── LoginRefused         the server does not let this user in
├── ServerUnreachable    no server answers (exit code 1: the world must change, not the command)
└── DriverMissing        the extra `postgres` is not installed
"""

from app.errors import FatalError, PhalanxError


class JournalError(PhalanxError):
    """Any error of a journal that is open."""


class JournalRefusal(JournalError):
    """What was asked for is not possible. Raised before anything is written, so that the rest of a commit stands."""


class NoSuchBatch(JournalRefusal):
    """The batch is not there, or was removed."""


class NoSuchFile(JournalRefusal):
    """The file is not there, or was removed."""


class WrongState(JournalRefusal):
    """The batch's state does not allow it."""


class KeyInUse(JournalRefusal):
    """The tenant has a batch with this idempotency key; `batch_id` says which."""

    def __init__(self, key: str, batch_id: str) -> None:
        super().__init__(f"the idempotency key {key!r} belongs to {batch_id}: choose another key")
        self.batch_id = batch_id


class QuotaExceeded(JournalRefusal):
    """More would be stored than allowed: `what` is batches, items, files or bytes.

    `tenant` is None for all together.
    """

    def __init__(self, what: str, tenant: str | None, used: int, asked: int, allowed: int) -> None:
        whose = "all tenants together store" if tenant is None else f"tenant {tenant} stores"
        super().__init__(
            f"{whose} {used} {what}, and {asked} more would be more than the {allowed} allowed: delete batches and "
            "files that are done with, or wait until they are removed by their age"
        )
        self.what = what
        self.tenant = tenant
        self.used = used
        self.asked = asked
        self.allowed = allowed


class DiskTooFull(JournalRefusal):
    """A file may not take what is left of the disk: batches need it, and so does removing anything."""

    def __init__(self, free_bytes: float) -> None:
        super().__init__(
            f"{free_bytes:.0f} bytes of the gateway's disk are free, which files may not take: delete what is "
            "done with, or have its operator make room"
        )


class JournalUnavailable(JournalError):
    """The database cannot do it now. Whether a write that failed so was stored is unknown until the journal is back;
    writing it again is safe where the operation says so.

    Everybody may read `reason`; `detail`, the database's own words, may name files and addresses.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"the journal is not available: {reason}" + (f" ({detail})" if detail else ""))
        self.reason = reason
        self.detail = detail


class Superseded(JournalError):
    """Another gateway has raised the epoch."""


class CannotOpen(FatalError):
    """The journal cannot be used as it is."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message, exit_code)


class JournalInUse(CannotOpen):
    """Another gateway uses it now."""


class NoJournal(CannotOpen):
    """There is none yet."""


class NotAJournal(CannotOpen):
    """Something else is there, or what is left of a journal."""


class NewerSchema(CannotOpen):
    """A newer version of Phalanx has written it."""


class OlderSchema(CannotOpen):
    """It has to be upgraded first."""


class FolderUnusable(CannotOpen):
    """The folder is missing, or this user may not write there."""


class LoginRefused(CannotOpen):
    """The server refuses the user, the password or the database."""


class ServerUnreachable(CannotOpen):
    """No server answers there."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=1)


class DriverMissing(CannotOpen):
    """The package that speaks to the server is not installed."""
