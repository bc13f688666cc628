"""`phalanx api-keys`, and what `phalanx serve` says of the file that it makes."""

import json
from pathlib import Path

import pytest

from app.keys.key import KeyLimits, digest
from app.keys.store import KeysFile
from phalanx.cli import main


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeysFile:
    """The file that the variable names."""
    file = KeysFile(tmp_path / "keys.json")
    monkeypatch.setenv("PHALANX_API_KEYS_FILE", str(file.path))
    return file


class Ended(Exception):
    """A command has failed."""

    def __init__(self, code: object, said: str) -> None:
        super().__init__(code, said)
        self.code = code
        self.said = said


class Phalanx:
    """The command line. What it prints comes back; stderr is kept."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.err = ""

    def __call__(self, *args: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(list(args))
        out, self.err = self._capsys.readouterr()
        if ended.value.code:
            raise Ended(ended.value.code, self.err)
        return out


@pytest.fixture
def phalanx(capsys: pytest.CaptureFixture[str]) -> Phalanx:
    return Phalanx(capsys)


def test_a_secret_is_all_that_is_printed_where_scripts_read(file: KeysFile, phalanx: Phalanx) -> None:
    secret = phalanx("api-keys", "create", "ci").rstrip("\n")
    (key,) = file.read().keys
    assert key.sha256 == digest(secret)
    assert phalanx.err == (
        f"phalanx: {key.id} (ci) was written to {file.path}. Its secret is shown this once: it is kept as a hash.\n"
    )


def test_everything_about_a_key_can_be_said(file: KeysFile, phalanx: Phalanx) -> None:
    limits = ["--max-waiting-items", "100", "--requests-per-s", "0.5", "--min-priority", "-5", "--max-priority", "5"]
    phalanx("api-keys", "create", "boss", "--admin", "--tenant", "ops", "--weight", "3", *limits)
    (key,) = file.read().keys
    assert (key.name, key.admin, key.tenant, key.weight) == ("boss", True, "ops", 3)
    assert key.limits == KeyLimits(max_waiting_items=100, requests_per_s=0.5, min_priority=-5, max_priority=5)


def test_a_file_may_be_named_and_lie_in_ones_home(
    phalanx: Phalanx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PHALANX_API_KEYS_FILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    phalanx("api-keys", "create", "one", "--file", "~/other.json")
    assert [key.name for key in KeysFile(tmp_path / "other.json").read().keys] == ["one"]
    with pytest.raises(Ended, match=r"'--file'.*PHALANX_API_KEYS_FILE") as ended:
        phalanx("api-keys", "list")
    assert ended.value.code == 2
    with pytest.raises(Ended, match="begins with no home that the system knows: write the whole path") as ended:
        phalanx("api-keys", "list", "--file", "~nobody-here/keys.json")
    assert ended.value.code == 2


def test_a_list_shows_all_but_the_secret(file: KeysFile, phalanx: Phalanx) -> None:
    plain = file.create("a [bold] one").key
    limits = KeyLimits(max_waiting_items=1_000_000, requests_per_s=2.5, min_priority=-1)
    boss = file.create("boss", admin=True, weight=2, limits=limits, tenant="ops").key
    _, first, second = phalanx("api-keys", "list").splitlines()
    assert first.split()[:4] == [plain.id, "a", "[bold]", "one"]
    assert first.split()[4] == "-" and second.split()[2] == "ops"
    assert first.split()[-5:] == ["-", "1", "-", "-", "any"]
    assert second.split()[-7:] == ["yes", "2", "1,000,000", "2.5", "-1", "or", "more"]
    text = phalanx("api-keys", "list", "--json")
    shown = json.loads(text)
    assert plain.sha256 not in text and boss.sha256 not in text
    assert shown[0]["tenant"] == plain.id
    assert shown[0]["limits"] == dict.fromkeys(KeyLimits.__struct_fields__)
    assert shown[1] == {
        "id": boss.id,
        "name": "boss",
        "tenant": "ops",
        "created_at": boss.created_at,
        "admin": True,
        "weight": 2,
        "limits": {"max_waiting_items": 1_000_000, "requests_per_s": 2.5, "min_priority": -1, "max_priority": None},
    }


def test_a_key_is_revoked_once(file: KeysFile, phalanx: Phalanx) -> None:
    key = file.create("one").key
    assert phalanx("api-keys", "revoke", "one") == ""
    assert phalanx.err == f"phalanx: {key.id} (one) is revoked\n"
    assert file.read().keys == ()
    with pytest.raises(Ended, match="has no key 'one'"):
        phalanx("api-keys", "revoke", "one")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["create", "x", "--weight", "0"], "the key cannot be made: weight"),
        (["create", "x", "--tenant", "two words"], "the key cannot be made: tenant"),
        (["create", "x", "--tenant", ""], "the key cannot be made: tenant"),
        (["create", "x", "--requests-per-s", "nan"], "the key cannot be made: limits.requests_per_s"),
        (["create", "x", "--max-waiting-items", "many"], "Invalid value for '--max-waiting-items'"),
        (["create", "x", "--min-priority", "1", "--max-priority", "0"], "min_priority is 1: it must be at most"),
        (["create"], "Missing argument 'NAME'."),
        (["list"], "is not there: make it with `phalanx api-keys create"),
        (["revoke", "x"], "is not there: make it with `phalanx api-keys create"),
        (["remove", "x"], "No such command 'remove'."),
    ],
)
def test_a_wrong_command_ends_with_one_sentence(file: KeysFile, phalanx: Phalanx, args: list[str], said: str) -> None:
    with pytest.raises(Ended) as ended:
        phalanx("api-keys", *args)
    assert ended.value.code == 2
    assert ended.value.said.startswith("phalanx: ") and ended.value.said.count("\n") == 1
    assert said in ended.value.said
    assert not file.path.exists()


def test_without_a_command_there_is_help(phalanx: Phalanx) -> None:
    shown = phalanx("api-keys")
    assert all(f"\n  {name} " in shown for name in ("create", "list", "revoke"))


def test_serve_ends_at_once_when_the_file_cannot_be_used(file: KeysFile, phalanx: Phalanx) -> None:
    for text, mode, said in [(None, 0, "is not there"), ("{", 0o600, "not valid JSON"), ("{}", 0o644, "chmod 600")]:
        if text is not None:
            file.path.write_text(text)
            file.path.chmod(mode)
        with pytest.raises(Ended) as ended:
            phalanx("serve", "--engine", "simulated", "--port", "0")
        assert ended.value.code == 2
        assert ended.value.said.startswith("phalanx: --api-keys-file (PHALANX_API_KEYS_FILE): the API keys file ")
        assert said in ended.value.said and ended.value.said.count("\n") == 1
