"""How a batch is taken into the journal: item by item as its body comes, and durable before anybody is told its id.

Nothing is asked of a rank that is not there yet: a batch is accepted while all of them load. What is wrong with an item
becomes known when it is its turn.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable

from app.batches.acceptance import Acceptance, priority_of
from app.batches.availability import Availability
from app.batches.detached.batches import DetachedBatches
from app.batches.detached.options import encode_options
from app.batches.detached.sink import new_result
from app.batches.intake import duplicate, label_of
from app.batches.record import new_batch_id
from app.batches.request import BatchRequest, bytes_of
from app.batches.results import ItemEnd, encode_result
from app.errors import Conflict, InvalidRequest, TryLater, Unprocessable
from app.journal.errors import KeyInUse
from app.journal.journal import Journal
from app.journal.keeper import JournalKeeper
from app.journal.records import NewBatch, NewItem, Sealing, StoredBatch
from app.journal.states import BatchState
from app.keys.ring import Caller
from app.settings.declaration import Settings
from engines.contract.item_errors import ItemError, ItemErrorCode
from engines.contract.protocol import Outcome, Result

MAX_KEY_LENGTH = 255
MAX_METADATA_BYTES = 64 * 1024
Bodies = AsyncIterator[list[bytes]]  # of items, some hundreds at a time


class DetachedAcceptance:
    """From a request to a stored batch that runs when its turn comes."""

    def __init__(
        self,
        settings: Settings,
        keeper: JournalKeeper,
        acceptance: Acceptance,
        availability: Availability,
        batches: DetachedBatches,
        answer_settings: bytes,
    ) -> None:
        self._settings = settings
        self._keeper = keeper
        self._acceptance = acceptance
        self._availability = availability
        self._batches = batches
        self._answer_settings = answer_settings

    async def known(self, caller: Caller, key: str, digest: bytes) -> StoredBatch | None:
        """The batch that an idempotency key stands for.

        Raises Unprocessable for another body than its own, Conflict while that comes in, and JournalError.
        """
        found = await self._journal.find_by_key(caller.tenant, check_key(key))
        if found is None:
            return None
        if found.state is BatchState.RECEIVING:
            raise Conflict(
                f"a request with the Idempotency-Key {key[:80]!r} is being received: wait for its answer, or try again",
                param="Idempotency-Key",
                code="idempotency_key_in_use",
            )
        if found.body_digest != digest:
            raise Unprocessable(
                f"the Idempotency-Key {key[:80]!r} stands for {found.id}, which came with another body: send the same "
                "body, or choose another key",
                param="Idempotency-Key",
                code="idempotency_key_reused",
            )
        return found

    async def accept(
        self, request: BatchRequest, bodies: Bodies, caller: Caller, key: str | None, digest: Callable[[], bytes | None]
    ) -> StoredBatch:
        """A batch with all its items, durable. `digest`, of the body, is asked for when `bodies` has ended.

        Raises RequestError and JournalError; nothing of the batch stays then.
        """
        self._availability.check_open()
        self._keeper.check()
        new = await self._new_batch(request, caller, key)
        try:
            stored = await self._journal.create(new)
        except KeyInUse:
            return await self._beaten(bodies, caller, key, digest)
        return await self._fill(stored, request, bodies, digest)

    async def _beaten(
        self, bodies: Bodies, caller: Caller, key: str | None, digest: Callable[[], bytes | None]
    ) -> StoredBatch:
        """Another request with the same key was first: its batch, if the bodies are the same."""
        async for _ in bodies:
            pass
        found = await self.known(caller, key or "", digest() or b"")
        if found is None:  # it has just gone again
            raise Conflict(
                f"another request with the Idempotency-Key {(key or '')[:80]!r} was received and given up: try again",
                param="Idempotency-Key",
                code="idempotency_key_in_use",
            )
        return found

    async def _new_batch(self, request: BatchRequest, caller: Caller, key: str | None) -> NewBatch:
        self._acceptance.check(request)
        priority = priority_of(request, caller)
        resolver = self._acceptance.resolve(request)
        if self._availability.takes_items:
            with contextlib.suppress(TryLater):  # no rank is needed: each checks its items
                await self._acceptance.check_params(resolver)
        return NewBatch(
            id=new_batch_id(),
            tenant=caller.tenant,
            key_id=caller.key.id if caller.key else None,
            model=self._settings.public_name,
            priority=priority,
            created_at=time.time(),
            answer_settings=self._answer_settings,
            options=encode_options(request),
            metadata=_metadata(request),
            idempotency_key=None if key is None else check_key(key),
        )

    async def _fill(
        self, stored: StoredBatch, request: BatchRequest, bodies: Bodies, digest: Callable[[], bytes | None]
    ) -> StoredBatch:
        try:
            async for some in bodies:
                await self._append(stored.ordinal, request, some)
            sealed = await self._journal.seal(stored.ordinal, _sealing(request, digest()))
        except BaseException:
            await self._batches.discard(stored)
            raise
        self._batches.take_up(sealed)
        return sealed

    async def _append(self, ordinal: int, request: BatchRequest, bodies: list[bytes]) -> None:
        items = [NewItem(body, label_of(body, returns_prompts=False).custom_id) for body in bodies]
        appended = await self._journal.append(ordinal, items)
        refused = []
        for index in appended.duplicates:
            label = label_of(bodies[index - appended.first], returns_prompts=bool(request.return_prompt))
            complaint = duplicate(label.custom_id or "", f"prompts[{index}]")
            error = ItemError(ItemErrorCode.DUPLICATE_CUSTOM_ID, complaint.message, complaint.param)
            result = Result(0, Outcome.ERROR, error=error)
            encoded = encode_result(ItemEnd(index, label, "error", result))
            refused.append(new_result(index, encoded, "error", result))
        if refused:
            await self._journal.put_results(ordinal, refused)

    @property
    def _journal(self) -> Journal:
        return self._keeper.journal


def check_key(key: str) -> str:
    """An idempotency key that can be kept. Raises InvalidRequest."""
    if not 1 <= len(key) <= MAX_KEY_LENGTH or not key.isprintable():
        raise InvalidRequest(
            f"Idempotency-Key is {key[:80]!r}: it must have 1 to {MAX_KEY_LENGTH} printable characters",
            param="Idempotency-Key",
        )
    return key


def _sealing(request: BatchRequest, digest: bytes | None) -> Sealing:
    """A batch's times count from when all of it is there."""
    now = time.time()
    return Sealing(
        deadline_at=None if request.timeout_s is None else now + request.timeout_s,
        expires_at=None if request.expires_after_s is None else now + request.expires_after_s,
        body_digest=digest,
    )


def _metadata(request: BatchRequest) -> bytes | None:
    raw = bytes_of(request.metadata)
    if raw is None:
        return None
    if raw[:1] != b"{":
        raise InvalidRequest("metadata must be an object", param="metadata")
    if len(raw) > MAX_METADATA_BYTES:
        raise InvalidRequest(
            f"metadata has {len(raw)} bytes: at most {MAX_METADATA_BYTES} are kept with a batch", param="metadata"
        )
    return raw
