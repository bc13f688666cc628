"""The way to a journal: `open_journal`. SQLAlchemy is imported here, when a journal is really used: it takes a quarter
of a second and 16 MiB."""

import asyncio
from typing import TYPE_CHECKING

from app.journal.folder import DataFolder, this_process
from app.journal.health import OnCommit, OnHealth, not_measured
from app.journal.place import FolderPlace, Place
from app.journal.records import Quotas, Sizes

if TYPE_CHECKING:
    from app.journal.journal import Journal


async def open_journal(
    place: Place, quotas: Quotas, on_health: OnHealth, on_commit: OnCommit = not_measured
) -> "Journal":
    """The journal in its place, for this process alone, as a new epoch. What a former gateway was still receiving is
    deleted. `on_health` is called in the event loop whenever writing stops or becomes possible. Raises CannotOpen.
    """
    from app.journal.journal import Journal
    from app.journal.sql.opening import open_store

    folder = await asyncio.to_thread(DataFolder, place) if isinstance(place, FolderPlace) else None
    try:
        store = await asyncio.to_thread(open_store, place, this_process())
    except BaseException:
        if folder is not None:
            folder.release()
        raise
    return Journal(store, folder, quotas, on_health, on_commit)


def upgrade(place: Place) -> str | None:
    """Brings a journal that nobody uses to this version's schema. Returns the schema it had. Raises CannotOpen."""
    from app.journal.sql import opening

    if not isinstance(place, FolderPlace):
        return opening.upgrade(place)
    folder = DataFolder(place)
    try:
        return opening.upgrade(place)
    finally:
        folder.release()


def examine(place: Place) -> Sizes:
    """Whether a journal can be used, and what it holds. Changes nothing. Raises CannotOpen."""
    from app.journal.sql import opening

    return opening.examine(place)
