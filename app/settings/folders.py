"""Where the service and its ranks write, found before anything starts.

A folder that somebody chose, or owns, has to take files: if it does not, the start ends with a sentence. A user without
a home that takes files, such as an arbitrary one in a container, gets a private one in the temporary folder.
"""

import os
import pwd
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.journal.place import FolderPlace, Place, ServerPlace
from app.settings.declaration import Settings, SettingsError, label
from engines.contract.spec import EngineKind

LONGEST_SOCKET_FOLDER = 40  # bytes: vLLM's sockets lie far below it, and a socket's path has at most 108
LARGE_FOLDER = "/var/tmp"  # noqa: S108  for nameless files; /tmp is often in memory
SHORT_FOLDER = "/tmp"  # noqa: S108  a private folder is made in it
HUB_CACHE = Path(".cache", "huggingface")


@dataclass(frozen=True)
class Home:
    """The home of the service and its ranks. `missing` says why it is not the user's own; None where it is."""

    folder: Path
    missing: str | None
    variables: Mapping[str, str]  # by which children find it


def find_home(environ: Mapping[str, str]) -> Home:
    """The user's home, or one in its place. Raises SettingsError."""
    own = environ.get("HOME") or _home_by_passwd()
    if own is None:
        missing = "HOME is unset, and the system knows no home of this user"
    elif (why := obstacle(Path(own))) is None:
        return Home(Path(own), None, {"HOME": own})
    else:
        missing = f"HOME is {own}: {why}"
    folder = _private_folder(Path(temporary_folder()), missing)
    variables = {"HOME": str(folder)}
    if own is not None and "HF_HOME" not in environ and os.access(Path(own, HUB_CACHE), os.R_OK | os.X_OK):
        variables["HF_HOME"] = str(Path(own, HUB_CACHE))  # models may lie there, to be read only
    return Home(folder, missing, variables)


def _home_by_passwd() -> str | None:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None


def _private_folder(parent: Path, missing: str) -> Path:
    """The same at every start, so that what was built is there again; nobody else may have made it."""
    folder = parent / f"phalanx.{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        why = error.strerror or str(error)
    else:
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return folder
        why = "it is not a private folder of this user"
    raise SettingsError(f"{missing}, and {folder} cannot stand in for it ({why}): set HOME to a folder of this user's")


def obstacle(folder: Path) -> str | None:
    """Why no file can be made in a folder, or in what has to be made for it; None if one can."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))  # noqa: PTH110  it raises nothing
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return None
    except OSError as error:
        return f"{error.strerror or error}"


def spool_obstacle(folder: Path) -> str | None:
    """Why no file can be made in a folder that must be there; None if one can."""
    return obstacle(folder) if folder.is_dir() else "there is no such folder"


def journal_place(data_dir: Path | None, journal_url: str | None, port: int, environ: Mapping[str, str]) -> Place:
    """Where the journal is. `environ` has a HOME."""
    if journal_url is not None:
        return ServerPlace(journal_url)
    if data_dir is not None:
        return FolderPlace(data_dir.absolute())
    return FolderPlace(_xdg(environ, "DATA") / "phalanx" / str(port), is_default=True)


def service_journal(settings: Settings, environ: Mapping[str, str]) -> Place | None:
    """Where a service's journal is. None: it is not kept, as a service on any free port would not find it again."""
    if settings.port == 0 and settings.data_dir is None and settings.journal_url is None:
        return None
    return journal_place(settings.data_dir, settings.journal_url, settings.port, environ)


def log_folder(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Where the ranks' logs go."""
    return settings.log_dir or _xdg(environ, "STATE") / "phalanx" / "logs" / str(settings.port)


def tuned_folder(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Where what `phalanx tune` has found is kept."""
    return settings.tuned_dir or _xdg(environ, "DATA") / "phalanx" / "tuned"


def spool_folder(spool_dir: Path | None) -> Path:
    """Where what waits to be read is kept. Raises SettingsError."""
    if spool_dir is not None:
        return spool_dir
    return Path(temporary_folder() if obstacle(Path(LARGE_FOLDER)) else LARGE_FOLDER)


def check_folders(settings: Settings, environ: Mapping[str, str]) -> None:
    """Whether logs and caches can be written; `environ` is the children's. Raises SettingsError."""
    problems = list(_problems(settings, environ))
    if problems:
        raise SettingsError("\n".join(problems))


def _problems(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    logs = log_folder(settings, environ)
    if why := obstacle(logs):
        yield f"no logs can be written in {logs} ({why}): name another folder with {label('log_dir')}"
    spool_dir = settings.spool_dir if settings.node_rank == 0 else None  # where the gateway is
    if spool_dir is not None and (why := spool_obstacle(spool_dir)):
        yield f"nothing can be kept in {spool_dir} ({why}): name another folder with {label('spool_dir')}"
    cache = _xdg(environ, "CACHE")
    if settings.engine is EngineKind.VLLM and (why := obstacle(cache)):
        yield f"no cache can be written in {cache} ({why}): set XDG_CACHE_HOME to a folder that this user may write"


def _xdg(environ: Mapping[str, str], kind: str) -> Path:
    defaults = {"STATE": ".local/state", "DATA": ".local/share", "CACHE": ".cache"}
    return Path(environ.get(f"XDG_{kind}_HOME") or Path(environ["HOME"], defaults[kind]))


def temporary_folder() -> str:
    """The one of $TMPDIR, /tmp and others that takes files. Raises SettingsError."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise SettingsError(f"{error.strerror}: set TMPDIR to a folder that this user may write") from None


def socket_folder() -> Path:
    """The temporary folder, or a shorter one: a socket's path must not be long. Raises SettingsError."""
    folder = temporary_folder()
    if len(os.fsencode(folder)) <= LONGEST_SOCKET_FOLDER:
        return Path(folder)
    if why := obstacle(Path(SHORT_FOLDER)):
        raise SettingsError(
            f"the temporary folder {folder} is too long for the paths of sockets, and {SHORT_FOLDER} takes none "
            f"({why}): set TMPDIR to a folder of at most {LONGEST_SOCKET_FOLDER} bytes that this user may write"
        )
    return Path(SHORT_FOLDER)
