"""The keys in force: who is known, what a change of the file does, and what an unusable file does not do."""

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from app import logs
from app.keys.bucket import TokenBucket
from app.keys.key import DEFAULT_TENANT, KeyLimits
from app.keys.ring import OPERATOR, Caller, KeyRing
from app.keys.store import KeysFile, KeysFileError


class Clock:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> KeysFile:
    return KeysFile(tmp_path / "keys.json")


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Takes a handler away again that writes to this test's stderr."""
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    structlog.reset_defaults()


def known(ring: KeyRing, secret: str) -> Caller:
    caller = ring.find(secret)
    assert caller is not None
    return caller


def refresh(ring: KeyRing) -> None:
    asyncio.run(ring.refresh())


# ---------------------------------------------------------------- who is known


def test_a_secret_finds_its_key(file: KeysFile) -> None:
    plain, boss = file.create("plain"), file.create("boss", admin=True)
    ring = KeyRing(file)
    assert (known(ring, plain.secret).key, known(ring, plain.secret).is_admin) == (plain.key, False)
    assert (known(ring, boss.secret).key, known(ring, boss.secret).is_admin) == (boss.key, True)


def test_keys_that_name_a_tenant_share_it_and_any_other_is_its_own(file: KeysFile) -> None:
    one, two = file.create("one", tenant="eval"), file.create("two", tenant="eval")
    alone = file.create("alone")
    successor = file.create("successor", tenant=alone.key.id)
    ring = KeyRing(file)
    assert [known(ring, new.secret).tenant for new in (one, two)] == ["eval", "eval"]
    assert [known(ring, new.secret).tenant for new in (alone, successor)] == [alone.key.id, alone.key.id]
    assert OPERATOR.tenant == DEFAULT_TENANT


def test_nothing_but_the_secret_does(file: KeysFile) -> None:
    new = file.create("one")
    ring = KeyRing(file)
    for other in ("", new.key.id, new.key.name, new.key.sha256, new.secret[:-1], new.secret + "x", new.secret.upper()):
        assert ring.find(other) is None
    assert ring.find("ü\x00") is None


def test_a_file_that_cannot_be_used_ends_the_start(file: KeysFile) -> None:
    with pytest.raises(KeysFileError):
        KeyRing(file)


# ---------------------------------------------------------------- changes


def test_changes_of_the_file_are_taken_over(file: KeysFile) -> None:
    first = file.create("first")
    ring = KeyRing(file)
    second = file.create("second")
    assert ring.find(second.secret) is None
    refresh(ring)
    assert known(ring, second.secret).key == second.key
    file.revoke("first")
    refresh(ring)
    assert ring.find(first.secret) is None
    assert known(ring, second.secret).key == second.key
    file.revoke("second")
    refresh(ring)
    assert ring.find(second.secret) is None


def test_a_file_that_has_not_changed_is_not_read_again(file: KeysFile) -> None:
    new = file.create("one")
    ring = KeyRing(file)
    before = ring.find(new.secret)
    refresh(ring)
    assert ring.find(new.secret) is before


def events(captured: str, name: str) -> list[dict[str, Any]]:
    return [event for event in map(json.loads, captured.splitlines()) if event["event"] == name]


@pytest.mark.parametrize("trouble", ["malformed", "mode", "gone"])
def test_an_unusable_file_changes_nothing_and_is_said_once(
    file: KeysFile, trouble: str, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("json", "info")
    new = file.create("one")
    ring = KeyRing(file)
    text = file.path.read_bytes()
    capfd.readouterr()
    match trouble:
        case "malformed":
            file.path.write_bytes(text[:-20])
        case "mode":
            file.path.chmod(0o644)
        case "gone":
            file.path.unlink()
    for _ in range(3):
        refresh(ring)
        assert known(ring, new.secret).key == new.key
    (event,) = events(capfd.readouterr().err, "api_keys_unusable")
    assert event["level"] == "error" and str(file.path) in event["reason"]

    file.path.write_bytes(text)
    file.path.chmod(0o600)
    other = file.create("other")
    refresh(ring)
    assert known(ring, other.secret).key == other.key
    said = capfd.readouterr().err
    assert len(events(said, "api_keys_readable_again")) == 1
    assert events(said, "api_keys_read")[-1]["added"] == [other.key.id]


def test_the_log_names_ids_and_no_secret(file: KeysFile, capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    first = file.create("first", admin=True)
    ring = KeyRing(file)
    file.revoke("first")
    second = file.create("second")
    refresh(ring)
    said = capfd.readouterr().err
    at_start, later = events(said, "api_keys_read")
    assert (at_start["keys"], at_start["admins"], at_start["added"]) == (1, 1, [first.key.id])
    assert (later["keys"], later["admins"], later["revoked"]) == (1, 0, [first.key.id])
    for new in (first, second):
        assert new.secret not in said and new.key.sha256 not in said


# ---------------------------------------------------------------- requests a second


def test_a_key_does_not_win_requests_by_a_change_of_the_file(file: KeysFile) -> None:
    new = file.create("one", limits=KeyLimits(requests_per_s=0.001))
    ring = KeyRing(file)
    bucket = known(ring, new.secret).bucket
    assert bucket is not None and bucket.take() and not bucket.take()
    file.create("other")
    refresh(ring)
    assert known(ring, new.secret).bucket is bucket


def test_another_limit_is_in_force_at_once(file: KeysFile) -> None:
    new = file.create("one", limits=KeyLimits(requests_per_s=0.001))
    ring = KeyRing(file)
    for limit, per_s in ((5, 5.0), (None, None)):
        document = json.loads(file.path.read_text())
        document["keys"][0]["limits"]["requests_per_s"] = limit
        file.path.write_text(json.dumps(document))
        refresh(ring)
        bucket = known(ring, new.secret).bucket
        assert (bucket.per_s if bucket else None) == per_s


@pytest.mark.parametrize(("per_s", "capacity"), [(0.1, 1), (1, 1), (2.5, 3), (100, 100)])
def test_a_bucket_holds_what_may_come_within_a_second(per_s: float, capacity: int) -> None:
    bucket = TokenBucket(per_s, Clock())
    assert (bucket.capacity, bucket.remaining, bucket.next_s, bucket.full_s) == (capacity, capacity, 0, 0)
    assert [bucket.take() for _ in range(capacity + 2)] == [True] * capacity + [False] * 2
    assert bucket.remaining == 0
    assert bucket.next_s == pytest.approx(1 / per_s)
    assert bucket.full_s == pytest.approx(capacity / per_s)


def test_a_bucket_fills_again_and_no_further() -> None:
    clock = Clock()
    bucket = TokenBucket(2, clock)
    assert bucket.take() and bucket.take() and not bucket.take()
    clock.now += 0.4
    assert not bucket.take() and bucket.next_s == pytest.approx(0.1)
    clock.now += 0.11
    assert bucket.take() and not bucket.take()
    clock.now += 3600
    assert (bucket.remaining, bucket.full_s) == (2, 0)


def test_over_a_long_time_no_more_pass_than_the_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(3, clock)
    passed = 0
    for _ in range(10_000):  # 100 s, asked ten times as often as allowed and more
        clock.now += 0.01
        passed += bucket.take()
    assert 300 <= passed <= 303
