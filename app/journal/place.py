"""Where a journal is: in a folder of this machine, or on a PostgreSQL server."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

SCHEMES = ("postgresql", "postgres")
FILE_NAME = "journal.sqlite3"


@dataclass(frozen=True)
class FolderPlace:
    """SQLite in a folder. One that the operator named has to be there, or its parent has: it may be a volume that was
    not mounted. The default one is made with all above it."""

    folder: Path
    is_default: bool = False

    @property
    def file(self) -> Path:
        """The database."""
        return self.folder / FILE_NAME

    def __str__(self) -> str:
        return f"the journal in {self.folder}"


@dataclass(frozen=True)
class ServerPlace:
    """A PostgreSQL database. The URL may hold a password, so messages show `where`."""

    url: str

    @property
    def where(self) -> str:
        """User, host, port and database."""
        found = urlsplit(self.url)
        user = f"{found.username}@" if found.username else ""
        return f"{user}{found.netloc.rpartition('@')[2] or 'the local server'}{found.path}"

    def __str__(self) -> str:
        return f"the journal on {self.where}"

    def __repr__(self) -> str:
        return f"ServerPlace({self.where})"


Place = FolderPlace | ServerPlace


def url_problem(url: str) -> str | None:
    """What is wrong with a --journal-url, without repeating its password; None if nothing is."""
    remedy = "it must be such as postgresql://user@host:5432/phalanx"
    try:
        found = urlsplit(url)
        _ = found.port
    except ValueError as error:
        return f"{error}: {remedy}"
    if found.scheme not in SCHEMES:
        return f"it begins with {found.scheme or 'no scheme'}: {remedy}"
    return None if found.path.strip("/") else f"it names no database: {remedy}"
