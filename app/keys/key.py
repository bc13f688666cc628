"""An API key: who may ask, and for how much. The secret itself is shown once and never kept."""

import hashlib
import secrets
import time
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from msgspec import Meta

PREFIX = "phx"
SECRET_BYTES = 32
MAX_WEIGHT = 100
NAME_PATTERN = r"^[A-Za-z0-9._-]{1,64}\Z"
DEFAULT_TENANT = "default"  # whose batches they are where no keys are asked for
MIN_REQUESTS_PER_S = 0.0001
MAX_REQUESTS_PER_S = 1_000_000


class KeyLimits(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True, omit_defaults=True):
    """What one key may do; None is as much as the service allows."""

    max_waiting_items: Annotated[int, Meta(ge=1)] | None = None
    requests_per_s: Annotated[float, Meta(ge=MIN_REQUESTS_PER_S, le=MAX_REQUESTS_PER_S)] | None = None
    min_priority: int | None = None  # lower runs first
    max_priority: int | None = None

    def __post_init__(self) -> None:
        lowest, highest = self.min_priority, self.max_priority
        if lowest is not None and highest is not None and lowest > highest:
            raise ValueError(f"min_priority is {lowest}: it must be at most max_priority, {highest}")

    def allows_priority(self, priority: int) -> bool:
        """Whether batches of this priority may be sent."""
        return self.nearest_priority(priority) == priority

    @property
    def priorities(self) -> str:
        """The range in words."""
        if self.min_priority is None:
            return "any" if self.max_priority is None else f"{self.max_priority} or less"
        return f"{self.min_priority} " + ("or more" if self.max_priority is None else f"to {self.max_priority}")

    def nearest_priority(self, priority: int) -> int:
        """The priority that is allowed and nearest to this one."""
        if self.min_priority is not None:
            priority = max(priority, self.min_priority)
        return priority if self.max_priority is None else min(priority, self.max_priority)


class ApiKey(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A key as the keys file has it. `id` may be logged; it stands in the secret, too, and tells whose that is."""

    id: Annotated[str, Meta(pattern=NAME_PATTERN)]
    name: Annotated[str, Meta(min_length=1, max_length=100)]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    created_at: Annotated[int, Meta(ge=0)]  # Unix time in seconds
    admin: bool = False
    weight: Annotated[int, Meta(ge=1, le=MAX_WEIGHT)] = 1  # gets so many times the tokens of a key with 1
    limits: KeyLimits = KeyLimits()
    tenant: Annotated[str, Meta(pattern=NAME_PATTERN)] | None = None  # None: the key is a tenant of its own

    def __post_init__(self) -> None:
        if not self.name.isprintable():  # it is shown on terminals
            raise ValueError(f"name is {self.name!r}: it must have printable characters only")

    @property
    def tenant_name(self) -> str:
        """Who owns what is sent with the key: the tenant that it names, or else the key's id. An id can be named as
        the tenant of another key, so that a key that is replaced leaves its batches to its successor."""
        return self.tenant or self.id


@dataclass(frozen=True)
class NewKey:
    """A key that was just made, with its secret."""

    key: ApiKey
    secret: str = field(repr=False)


def make_key(name: str, *, admin: bool, weight: int, limits: KeyLimits, tenant: str | None) -> NewKey:
    """A key with a new secret. Raises ValueError for values that no key may have."""
    number = secrets.token_hex(4)
    secret = f"{PREFIX}-{number}-{secrets.token_urlsafe(SECRET_BYTES)}"
    key = ApiKey(
        id=f"key-{number}",
        name=name,
        sha256=digest(secret),
        created_at=int(time.time()),
        admin=admin,
        weight=weight,
        limits=limits,
        tenant=tenant,
    )
    msgspec.convert(msgspec.to_builtins(key), ApiKey)  # checks what the annotations say; the constructor does not
    return NewKey(key, secret)


def digest(secret: str) -> str:
    """What is kept of a secret. A fast hash is right: 256 random bits are beyond guessing, as no password is, so a
    slow one would add nothing but its cost to every request."""
    return hashlib.sha256(secret.encode()).hexdigest()
