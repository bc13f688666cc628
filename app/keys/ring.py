"""The API keys in force: found by their secrets, and exchanged for the file's whenever that changes."""

import asyncio
import hmac
from dataclasses import dataclass

from app.keys.bucket import TokenBucket
from app.keys.key import DEFAULT_TENANT, ApiKey, digest
from app.keys.store import KeysFile, KeysFileError, KeysOnDisk
from app.logs import get_logger
from engines import tasks

logger = get_logger("keys")
LOOK_AGAIN_S = 1.0
NO_DIGEST = "0" * 64


@dataclass(frozen=True)
class Caller:
    """Who sends a request, and the requests that it has left."""

    key: ApiKey | None = None
    bucket: TokenBucket | None = None
    is_admin: bool = False

    @property
    def tenant(self) -> str:
        """Whom batches of this caller belong to: all keys of one tenant see them."""
        return DEFAULT_TENANT if self.key is None else self.key.tenant_name

    @property
    def sees(self) -> str | None:
        """The tenant whose batches and usage it sees; None: everybody's."""
        return None if self.is_admin else self.tenant


OPERATOR = Caller(is_admin=True)  # everybody, where no keys are asked for
STRANGER = Caller()  # who shows no key, where none is needed


class KeyRing:
    """Keys by what is kept of their secrets. Raises KeysFileError if the file cannot be used at the start; when that
    happens later, the keys that were read last stay in force."""

    def __init__(self, file: KeysFile) -> None:
        self._file = file
        self._by_digest: dict[str, Caller] = {}
        self._task: asyncio.Task[None] | None = None
        self._trouble: str | None = None
        self._seen = file.read()
        self._put_in_force(self._seen)

    def find(self, secret: str) -> Caller | None:
        """Whose secret it is."""
        presented = digest(secret)
        caller = self._by_digest.get(presented)
        kept = caller.key.sha256 if caller and caller.key else NO_DIGEST
        # The lookup's time depends on a hash that nobody can steer, and the comparison's on nothing.
        return caller if hmac.compare_digest(kept, presented) else None

    def of_id(self, key_id: str) -> ApiKey | None:
        """A key that is in force."""
        return next((caller.key for caller in self._by_digest.values() if caller.key and caller.key.id == key_id), None)

    def start(self, on_failure: tasks.OnFailure) -> None:
        """Begins to look at the file. Inside the running event loop."""
        self._task = tasks.start(self._watch(), "api keys", on_failure)

    async def stop(self) -> None:
        """Ends that. May be called twice."""
        await tasks.end(self._task)

    async def refresh(self) -> None:
        """Takes over what has changed in the file."""
        try:
            found = await asyncio.to_thread(self._look)  # it may lie on a file system that hangs
        except Exception as error:  # noqa: BLE001  the edge: the keys that are known stay in force
            self._complain(error)
        else:
            self._take(found)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            await self.refresh()

    def _look(self) -> KeysOnDisk:
        """The file's keys; those that are known when it has not changed since."""
        return self._seen if self._file.fingerprint() == self._seen.fingerprint else self._file.read()

    def _take(self, found: KeysOnDisk) -> None:
        if self._trouble is not None:
            self._trouble = None
            logger.info("api_keys_readable_again", file=str(self._file.path))
        if found is not self._seen:
            self._seen = found
            self._put_in_force(found)

    def _complain(self, error: Exception) -> None:
        """Once for each trouble, however long it lasts."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            unforeseen = None if isinstance(error, KeysFileError) else error
            logger.error("api_keys_unusable", reason=str(error), exc_info=unforeseen)  # those read before stay in force

    def _put_in_force(self, found: KeysOnDisk) -> None:
        before = {caller.key.id: caller for caller in self._by_digest.values() if caller.key}
        self._by_digest = {key.sha256: _caller(key, before.get(key.id)) for key in found.keys}
        after = {key.id for key in found.keys}
        logger.info(
            "api_keys_read",
            file=str(self._file.path),
            keys=len(after),
            admins=sum(key.admin for key in found.keys),
            added=sorted(after - before.keys()),
            revoked=sorted(before.keys() - after),
        )


def _caller(key: ApiKey, before: Caller | None) -> Caller:
    """What a key has used up stays used up when the file is read anew."""
    per_s = key.limits.requests_per_s
    bucket = before.bucket if before else None
    if per_s is None:
        bucket = None
    elif bucket is None or bucket.per_s != per_s:
        bucket = TokenBucket(per_s)
    return Caller(key, bucket, is_admin=key.admin)
