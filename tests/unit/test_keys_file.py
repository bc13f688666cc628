"""The file of API keys: what is kept, who may read it, and what is said when it cannot be used."""

import hashlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from app.keys.key import KeyLimits, digest
from app.keys.store import KeysFile, KeysFileError
from tests.unprivileged import public_folder, unprivileged

SECRET = re.compile(r"phx-[0-9a-f]{8}-[A-Za-z0-9_-]{43}")


@pytest.fixture
def file(tmp_path: Path) -> KeysFile:
    return KeysFile(tmp_path / "keys.json")


def entry(**fields: Any) -> dict[str, Any]:
    """A key as it may stand in a file."""
    return {"id": "key-1", "name": "one", "sha256": "0" * 64, "created_at": 1} | fields


def write(file: KeysFile, *entries: dict[str, Any], text: str | None = None, mode: int = 0o600) -> None:
    file.path.write_text(text if text is not None else json.dumps({"version": 1, "keys": list(entries)}))
    file.path.chmod(mode)


def complaint(file: KeysFile) -> str:
    with pytest.raises(KeysFileError) as refused:
        file.read()
    assert refused.value.exit_code == 2
    assert str(file.path) in str(refused.value)
    return str(refused.value)


# ---------------------------------------------------------------- what is kept


def test_a_secret_is_random_and_kept_as_a_hash_alone(file: KeysFile) -> None:
    first, second = file.create("first"), file.create("second")
    assert SECRET.fullmatch(first.secret) and SECRET.fullmatch(second.secret)
    assert first.secret[13:] != second.secret[13:]
    text = file.path.read_text()
    assert first.secret not in text and first.secret[13:] not in text
    assert first.secret not in repr(first)
    assert first.key.sha256 == hashlib.sha256(first.secret.encode()).hexdigest() == digest(first.secret)
    assert first.key.id == f"key-{first.secret[4:12]}"  # whoever finds a secret finds out which one to revoke


def test_what_was_created_is_what_is_read(file: KeysFile) -> None:
    limits = KeyLimits(max_waiting_items=10, requests_per_s=0.5, min_priority=-3, max_priority=3)
    made = [file.create("plain").key, file.create("boss", admin=True, weight=4, limits=limits, tenant="ops").key]
    assert list(file.read().keys) == made
    assert (made[0].admin, made[0].weight, made[0].limits) == (False, 1, KeyLimits())
    assert (made[1].admin, made[1].weight, made[1].limits) == (True, 4, limits)


def test_a_key_is_revoked_by_its_id_or_its_name(file: KeysFile) -> None:
    first, second, third = (file.create(name).key for name in ("first", "second", "third"))
    assert file.revoke(first.id) == first
    assert file.revoke("third") == third
    assert file.read().keys == (second,)
    assert file.revoke("second") == second
    assert file.read().keys == ()  # nobody gets in; the file does not count as absent
    with pytest.raises(KeysFileError, match="has no key 'second': `phalanx api-keys list` shows"):
        file.revoke("second")


def test_names_are_not_given_twice(file: KeysFile) -> None:
    made = file.create("one").key
    for name in ("one", made.id):
        with pytest.raises(KeysFileError, match="choose another name"):
            file.create(name)
    assert len(file.read().keys) == 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\x1b[2J"}, "printable"),
        ({"weight": 0}, "weight"),
        ({"weight": 101}, "weight"),
        ({"limits": KeyLimits(max_waiting_items=0)}, "limits.max_waiting_items"),
        ({"limits": KeyLimits(requests_per_s=0)}, "limits.requests_per_s"),
        ({"limits": KeyLimits(requests_per_s=float("nan"))}, "limits.requests_per_s"),
        ({"limits": KeyLimits(requests_per_s=float("inf"))}, "limits.requests_per_s"),
    ],
)
def test_a_key_that_could_not_be_read_again_is_not_made(file: KeysFile, values: dict[str, Any], said: str) -> None:
    with pytest.raises(KeysFileError, match=rf"^the key cannot be made: .*{re.escape(said)}"):
        file.create(values.pop("name", "a name"), **values)
    assert not file.path.exists()


def test_a_priority_range_must_not_be_empty() -> None:
    with pytest.raises(ValueError, match="min_priority is 2: it must be at most max_priority, 1"):
        KeyLimits(min_priority=2, max_priority=1)


# ---------------------------------------------------------------- priorities


@pytest.mark.parametrize(
    ("lowest", "highest", "words", "allowed", "refused", "nearest_to_0"),
    [
        (None, None, "any", (-9, 0, 9), (), 0),
        (-1, 1, "-1 to 1", (-1, 0, 1), (-2, 2), 0),
        (5, None, "5 or more", (5, 9), (4, 0), 5),
        (None, -5, "-5 or less", (-5, -9), (-4, 0), -5),
        (0, 0, "0 to 0", (0,), (-1, 1), 0),
    ],
)
def test_priorities_have_a_range(
    lowest: int | None,
    highest: int | None,
    words: str,
    allowed: tuple[int, ...],
    refused: tuple[int, ...],
    nearest_to_0: int,
) -> None:
    limits = KeyLimits(min_priority=lowest, max_priority=highest)
    assert limits.priorities == words
    assert all(limits.allows_priority(priority) for priority in allowed)
    assert not any(limits.allows_priority(priority) for priority in refused)
    assert limits.nearest_priority(0) == nearest_to_0


# ---------------------------------------------------------------- who may read it


def test_a_file_is_made_for_its_owner_alone(file: KeysFile) -> None:
    file.create("one")
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o620, 0o777])
def test_a_file_that_others_may_read_or_change_is_refused(file: KeysFile, mode: int) -> None:
    write(file, entry(), mode=mode)
    said = complaint(file)
    assert f"mode {mode:04o}" in said and f"`chmod 600 {file.path}`" in said
    with pytest.raises(KeysFileError, match="chmod 600"):
        file.create("another")


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_group_may_read_it_as_it_does_a_kubernetes_secret(file: KeysFile, mode: int) -> None:
    write(file, entry(), mode=mode)
    assert [key.id for key in file.read().keys] == ["key-1"]


def test_a_change_keeps_the_mode(file: KeysFile) -> None:
    write(file, entry(), mode=0o640)
    file.create("two")
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_change_by_root_leaves_the_file_to_the_service(file: KeysFile) -> None:
    file.create("one")
    os.chown(file.path, 12345, 12346)
    file.create("two")
    found = file.path.stat()
    assert (found.st_uid, found.st_gid, len(file.read().keys)) == (12345, 12346, 2)


def test_a_file_of_somebody_else_is_said_to_be_that() -> None:
    with public_folder() as folder:
        file = KeysFile(folder / "keys.json")
        write(file, entry(), mode=0o000)
        with unprivileged():
            assert "become the user that it belongs to" in complaint(file)


def test_a_link_stays_a_link(file: KeysFile, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(file.path)
    KeysFile(link).create("one")
    assert link.is_symlink() and not file.path.is_symlink()
    assert KeysFile(link).read().keys == file.read().keys != ()


# ---------------------------------------------------------------- what cannot be used


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "expected object"),
        ("{}", "keys is missing"),
        ('{"version": 2, "keys": []}', "version"),
        ('{"version": 1, "keys": [], "more": 1}', "unknown field 'more'"),
    ],
)
def test_a_malformed_file_is_refused(file: KeysFile, text: str, said: str) -> None:
    write(file, text=text)
    assert said in complaint(file)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"admin": "yes"}, "keys[0].admin"),
        ({"sha256": "secret"}, "keys[0].sha256"),
        ({"sha256": "0" * 64 + "\n"}, "keys[0].sha256"),
        ({"id": "two words"}, "keys[0].id"),
        ({"secret": "x"}, "unknown field 'secret' in keys[0]"),
        ({"limits": {"requests_per_s": 0}}, "keys[0].limits.requests_per_s"),
        ({"limits": {"min_priority": 1, "max_priority": 0}}, "min_priority is 1"),
        ({"name": "a\nb"}, "printable"),
    ],
)
def test_a_malformed_key_is_named(file: KeysFile, fields: dict[str, Any], said: str) -> None:
    write(file, entry(**fields))
    assert said in complaint(file)


@pytest.mark.parametrize("same", ["id", "name", "sha256"])
def test_two_keys_that_are_alike_are_refused(file: KeysFile, same: str) -> None:
    other = entry(id="key-2", name="two", sha256="1" * 64)
    write(file, entry(), other | {same: entry()[same]})
    assert f"two keys have the same {same}" in complaint(file)


def test_what_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    said = complaint(KeysFile(tmp_path / "none.json"))
    assert f"`phalanx api-keys create NAME --admin --file {tmp_path}/none.json`" in said
    with pytest.raises(KeysFileError, match="is not there"):
        KeysFile(tmp_path / "none.json").revoke("x")
    with pytest.raises(KeysFileError, match="there is no folder"):
        KeysFile(tmp_path / "none" / "keys.json").create("x")


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    assert "Is a directory" in complaint(KeysFile(tmp_path))
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "is no file" in complaint(KeysFile(tmp_path / "pipe"))
