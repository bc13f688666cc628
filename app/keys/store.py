"""The file of API keys: read by the gateway, changed by `phalanx api-keys`, at the same time if need be.

A change is made under a lock, into a new file that then takes the old one's place: readers see one or the other, and
of two commands neither loses what the other did.
"""

import contextlib
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from app.errors import FatalError
from app.keys.key import ApiKey, KeyLimits, NewKey, make_key
from app.validation import DECODE_ERRORS, complaint

FOR_OTHERS = stat.S_IRWXO | stat.S_IWGRP  # whoever may write here may make an admin's key
LOCK_TIMEOUT_S = 10.0
LOCK_POLL_S = 0.02


class KeysFileError(FatalError):
    """The operator must change the file, or the command. The message names the file."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=2)


class KeysDocument(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The file as it is written."""

    version: Literal[1] = 1
    keys: list[ApiKey]

    def __post_init__(self) -> None:
        for what in ("id", "name", "sha256"):
            found = [getattr(key, what) for key in self.keys]
            if len(set(found)) < len(found):
                raise ValueError(f"two keys have the same {what}")


@dataclass(frozen=True)
class Fingerprint:
    """What differs when the file is another one, or was changed, or its mode was."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


@dataclass(frozen=True)
class KeysOnDisk:
    """The keys, and of which state of the file."""

    keys: tuple[ApiKey, ...]
    fingerprint: Fingerprint


class KeysFile:
    """Reads and changes one file. All methods raise KeysFileError, and do I/O."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> KeysOnDisk:
        """The keys that are in force."""
        with self._translated():
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would never open
            with open(handle, "rb") as file:  # noqa: PTH123  a descriptor
                found = os.fstat(handle)
                self._check_mode(found.st_mode)
                text = file.read()
        return KeysOnDisk(tuple(self._decode(text).keys), _fingerprint(found))

    def fingerprint(self) -> Fingerprint:
        """Without reading the file."""
        with self._translated():
            return _fingerprint(self.path.stat())

    def create(
        self,
        name: str,
        *,
        admin: bool = False,
        weight: int = 1,
        limits: KeyLimits | None = None,
        tenant: str | None = None,
    ) -> NewKey:
        """Adds a key, and makes the file if it is not there."""
        try:
            new = make_key(name, admin=admin, weight=weight, limits=limits or KeyLimits(), tenant=tenant)
        except ValueError as error:
            found = complaint(error, "").message if isinstance(error, msgspec.ValidationError) else str(error)
            raise KeysFileError(f"the key cannot be made: {found}") from None
        with self._locked():
            keys = self.read().keys if self.path.exists() else ()
            if any(name in (key.name, key.id) for key in keys):
                raise KeysFileError(f"{self} has a key {name!r} already: choose another name, or revoke that one first")
            self._write([*keys, new.key])
        return new

    def revoke(self, id_or_name: str) -> ApiKey:
        """Removes a key. An id is looked for before a name."""
        with self._locked():
            keys = self.read().keys
            found = [key for key in keys if key.id == id_or_name] or [key for key in keys if key.name == id_or_name]
            if not found:
                raise KeysFileError(f"{self} has no key {id_or_name!r}: `phalanx api-keys list` shows those there are")
            self._write([key for key in keys if key is not found[0]])
        return found[0]

    def __str__(self) -> str:
        return f"the API keys file {self.path}"

    # -- reading

    def _check_mode(self, mode: int) -> None:
        if not stat.S_ISREG(mode):
            raise KeysFileError(f"{self} is no file: name one that `phalanx api-keys create` has made")
        if mode & FOR_OTHERS:
            raise KeysFileError(
                f"{self} has mode {stat.S_IMODE(mode):04o}, so that other users may read or change it: "
                f"`chmod 600 {self.path}`, and replace its keys if somebody may have"
            )

    def _decode(self, text: bytes) -> KeysDocument:
        try:
            return msgspec.json.decode(text, type=KeysDocument)
        except DECODE_ERRORS as error:
            raise KeysFileError(
                f"{self} cannot be used: {complaint(error, '').message}; correct it, or put it aside and make new keys "
                "with `phalanx api-keys create`"
            ) from error

    # -- writing

    def _write(self, keys: list[ApiKey]) -> None:
        text = msgspec.json.format(msgspec.json.encode(KeysDocument(keys=keys)), indent=2) + b"\n"
        path = self.path.resolve()  # a link stays one
        with self._translated():
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
            try:
                with open(handle, "wb") as file:  # noqa: PTH123  a descriptor
                    self._keep_owner(handle, path)
                    file.write(text)
                    file.flush()
                    os.fsync(handle)
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
            _sync_folder(path.parent)

    def _keep_owner(self, handle: int, path: Path) -> None:
        """The service that reads the file may run as another user than root, who changes it."""
        if path.exists():
            old, new = path.stat(), os.fstat(handle)
            os.fchmod(handle, stat.S_IMODE(old.st_mode))
            if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
                os.fchown(handle, old.st_uid, old.st_gid)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """No other command changes the file inside the block. The file itself cannot carry the lock: it is replaced."""
        path = self.path.resolve()
        lock = path.with_name(f".{path.name}.lock")
        with self._translated():
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT_S
            while not _try_lock(handle):
                if time.monotonic() > deadline:
                    raise KeysFileError(f"{self} is locked by another command for {LOCK_TIMEOUT_S:.0f} s: end that one")
                time.sleep(LOCK_POLL_S)
            yield
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """The operating system's errors as ours."""
        try:
            yield
        except FileNotFoundError:
            folder = self.path.resolve().parent
            if not folder.is_dir():
                raise KeysFileError(f"{self} cannot be there: there is no folder {folder}; make it first") from None
            raise KeysFileError(
                f"{self} is not there: make it with `phalanx api-keys create NAME --admin --file {self.path}`"
            ) from None
        except PermissionError as error:
            what = error.filename or self.path
            raise KeysFileError(
                f"{self} is not for this user (uid {os.geteuid()}): {what}: {error.strerror}; become the user that it "
                "belongs to"
            ) from None
        except OSError as error:
            raise KeysFileError(f"{self} cannot be used: {error.strerror}; name another one") from None


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _fingerprint(found: os.stat_result) -> Fingerprint:
    return Fingerprint(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _sync_folder(folder: Path) -> None:
    """The new name survives a power cut only when the folder was written, too."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
