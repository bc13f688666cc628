"""Whether there is room for a batch. What can never fit is told apart from what may fit later, with a time."""

from dataclasses import dataclass

from app.batches.rate import RateMeter
from app.dispatch.backlog import Backlog
from app.dispatch.item import EVERYBODY, Flow, Owner
from app.errors import TooLarge, TryLater
from app.keys.key import DEFAULT_TENANT, ApiKey
from app.keys.ring import Caller
from app.settings.declaration import Settings

MIN_RETRY_S = 1.0
SMALLEST_WINDOW = 64  # items: reading fewer is not worth its while


@dataclass(frozen=True)
class Asked:
    """What refusals call what is asked for, where its prompts are, and how it can be made smaller."""

    name: str
    param: str | None
    remedy: str


BATCH = Asked("batch", "prompts", "split it, or lower max_tokens or n")


class AdmissionGate:
    """Bounds the backlog in items and tokens, and each owner's part of it in items."""

    def __init__(self, settings: Settings, backlog: Backlog, rate: RateMeter) -> None:
        self._settings = settings
        self._backlog = backlog
        self._rate = rate

    @property
    def most_items(self) -> int:
        """Items that a batch may have."""
        return min(self._settings.max_batch_items, self._settings.max_waiting_items)

    def check_size(self, items: int, owner: Owner = EVERYBODY, asked: Asked = BATCH) -> None:
        """Raises TooLarge for what could never be admitted for its number of items."""
        limit = self.most_items
        if items > limit:
            flag = "--max-batch-items" if limit == self._settings.max_batch_items else "--max-waiting-items"
            raise TooLarge(
                f"the {asked.name} has more than {limit} prompts, the most that are accepted in one ({flag}): split it",
                param=asked.param,
                code=f"{asked.name}_too_large",
            )
        if owner.max_waiting_items is not None and items > owner.max_waiting_items:
            raise TooLarge(
                f"the {asked.name} has {items} prompts, and this API key may have {owner.max_waiting_items} waiting "
                "(its max_waiting_items): split it",
                param=asked.param,
                code=f"{asked.name}_too_large",
            )

    def check_share(self, owner: Owner, items: int) -> None:
        """Raises TryLater when an owner would have more waiting than it may."""
        waiting = self._backlog.waiting_of(owner)
        if owner.max_waiting_items is None or waiting.items + items <= owner.max_waiting_items:
            return
        excess_items = waiting.items + items - owner.max_waiting_items
        per_item = waiting.tokens / waiting.items if waiting.items else 0.0
        # An equal share of the measured rate for each who waits: what they will send is anybody's guess.
        retry_after_s = max(MIN_RETRY_S, self._rate.seconds_for(excess_items * per_item * self._backlog.owners))
        raise TryLater(
            f"this key's tenant has {waiting.items} items waiting, and may have {owner.max_waiting_items} (its "
            f"max_waiting_items): there is no room for {items} more; try again in about {retry_after_s:.0f} s",
            status=429,
            code="key_backlog_full",
            retry_after_s=retry_after_s,
        )

    def check_room(self, items: int, tokens: int, asked: Asked = BATCH) -> None:
        """Raises TooLarge or TryLater when it does not fit into the backlog."""
        settings, backlog = self._settings, self._backlog
        if tokens > settings.max_waiting_tokens:
            raise TooLarge(
                f"the {asked.name} may take {tokens} tokens, at most {settings.max_waiting_tokens} are accepted "
                f"(--max-waiting-tokens): {asked.remedy}",
                param=asked.param,
                code=f"{asked.name}_too_large",
            )
        excess_items = backlog.items + items - settings.max_waiting_items
        excess_tokens = backlog.tokens + tokens - settings.max_waiting_tokens
        if excess_items <= 0 and excess_tokens <= 0:
            return
        per_item = backlog.tokens / backlog.items if backlog.items else 0.0
        retry_after_s = max(MIN_RETRY_S, self._rate.seconds_for(max(excess_tokens, excess_items * per_item)))
        raise TryLater(
            f"{backlog.items} items with {backlog.tokens} tokens are waiting, and there is no room for {items} more "
            f"with {tokens} (--max-waiting-items {settings.max_waiting_items}, --max-waiting-tokens "
            f"{settings.max_waiting_tokens}): try again in about {retry_after_s:.0f} s",
            status=429,
            code="backlog_full",
            retry_after_s=retry_after_s,
        )

    def window_room(self, flow: Flow) -> int:
        """Items that a batch which comes in windows may add to the backlog now.

        None while the backlog, or its owner's part of it, is half full, so that others find room; but one that has
        nothing waiting may always have a small window, or it would not have its turn.
        """
        settings, backlog, allowed = self._settings, self._backlog, flow.owner.max_waiting_items
        room = settings.max_waiting_items // 2 - backlog.items
        least = min(SMALLEST_WINDOW, settings.max_waiting_items)
        if 2 * backlog.tokens > settings.max_waiting_tokens:
            room = 0
        if allowed is not None:
            room = min(room, allowed // 2 - backlog.waiting_of(flow.owner).items)
            least = min(least, allowed)
        if room >= least:
            return room
        return 0 if flow.waiting else least


def owner_of(caller: Caller) -> Owner:
    """The caller as the one whose batches share the ranks with others': all keys of a tenant are one."""
    return owner_of_key(caller.key, caller.tenant)


def owner_of_key(key: ApiKey | None, tenant: str) -> Owner:
    """A tenant, with the weight and the limit of one of its keys; None for a key that is no more."""
    if key is None:
        return EVERYBODY if tenant == DEFAULT_TENANT else Owner(tenant)
    return Owner(tenant, key.weight, key.limits.max_waiting_items)
