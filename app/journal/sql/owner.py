"""Whose the journal is: every gateway that opens it raises the epoch, and every commit checks that it is still its own.

On PostgreSQL the check locks the row, so that a take-over comes before a commit or after it; and a lock of the session
tells a second gateway at once. On SQLite the folder's lock does both.
"""

import time

from sqlalchemy import Connection, insert, select, text, update

from app.journal.errors import Superseded
from app.journal.sql.schema import owner

LOCK = 0x7068616C616E78  # "phalanx", one for each database


def take_over(connection: Connection, holder: str) -> int:
    """Raises the epoch and returns it."""
    row = connection.execute(select(owner.c.epoch).with_for_update()).first()
    values = {"holder": holder, "since": time.time()}
    if row is None:
        connection.execute(insert(owner).values(id=1, epoch=1, **values))
        return 1
    connection.execute(update(owner).values(epoch=row.epoch + 1, **values))
    return int(row.epoch) + 1


def check(connection: Connection, epoch: int) -> None:
    """Raises Superseded if the journal is another gateway's by now. Holds that off until the end of the transaction."""
    row = connection.execute(select(owner.c.epoch, owner.c.holder).with_for_update(read=True)).first()
    if row is None or row.epoch != epoch:
        holder = f"{row.holder}, epoch {row.epoch}" if row else "nobody: it was made anew"
        raise Superseded(f"the journal was taken over by {holder}; this gateway has epoch {epoch} and must stop")


def probe(connection: Connection) -> None:
    """Writes something, to see whether that is possible."""
    connection.execute(update(owner).values(probed_at=time.time()))


def holder(connection: Connection) -> str:
    """Who took it last."""
    return str(connection.execute(select(owner.c.holder)).scalar() or "another gateway")


def try_session_lock(connection: Connection, former_session: int | None = None) -> bool:
    """Takes PostgreSQL's lock of the session. Should it be held by `former_session`, which is this gateway's own and
    has lost its connection without the server's knowing, that session is ended."""
    if connection.dialect.name != "postgresql":
        return True
    taken = text("SELECT pg_try_advisory_lock(:lock)")
    if connection.execute(taken, {"lock": LOCK}).scalar():
        return True
    if former_session is None:
        return False
    ended = text(
        "SELECT pg_terminate_backend(pid, 2000) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = :pid"
    )
    connection.execute(ended, {"pid": former_session})
    return bool(connection.execute(taken, {"lock": LOCK}).scalar())


def session_of(connection: Connection) -> int | None:
    """PostgreSQL's number of this session."""
    if connection.dialect.name != "postgresql":
        return None
    return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
