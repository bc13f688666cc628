"""The job's file, which says all that the same command needs to go on: what was asked, and the batch that does it."""

import hashlib
import secrets
from pathlib import Path

import msgspec

from phalanx.durable_file import write_durably
from phalanx.generate.errors import UsageProblem
from phalanx.generate.parameters import Parameters

VERSION = 1
BLOCK_BYTES = 1 << 20


class Job(msgspec.Struct, kw_only=True):
    """A job that has begun. Row counts are None until the whole input was sent once.

    The key is written down before anything is sent, so that what a killed command sent is found again by it.
    """

    version: int = VERSION
    digest: str  # of the input's bytes
    parameters: Parameters
    idempotency_key: str
    url: str = ""
    batch_id: str | None = None
    rows: int | None = None
    bad_rows: int = 0  # of which no prompt could be made
    batch: int = 1  # how many were sent, this one included: seqs are of one batch

    def needs_results(self, results: int) -> bool:
        """Whether there are rows that wait for one, when the spool has so many."""
        return self.rows is None or results + self.bad_rows < self.rows

    def forget_batch(self) -> None:
        """What has no result is to be sent anew."""
        self.batch_id = None
        self.idempotency_key = new_key()
        self.batch += 1


def new_key() -> str:
    """An idempotency key."""
    return f"generate-{secrets.token_hex(16)}"


def read_job(path: Path) -> Job | None:
    """The job that was begun here. Raises UsageProblem for a file that is none of this version's."""
    try:
        job = msgspec.json.decode(path.read_bytes(), type=Job)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        job = None
    if job is None or job.version != VERSION:
        raise UsageProblem(f"{path} is no job of this version of Phalanx: --restart begins anew")
    return job


def write_job(path: Path, job: Job) -> None:
    """Atomically."""
    write_durably(path, msgspec.json.format(msgspec.json.encode(job)))


def digest_of(path: Path) -> str:
    """Of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
