"""Where the service writes: in the user's own folders or in one in their place. Nobody can make a file in /proc."""

import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.journal.place import FolderPlace
from app.settings import folders
from app.settings.declaration import Settings, SettingsError
from app.settings.folders import (
    check_folders,
    find_home,
    journal_place,
    log_folder,
    socket_folder,
    spool_folder,
    temporary_folder,
)
from app.settings.loading import load_settings


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short one. `tmp_path` is there before it, and not in it."""
    assert tmp_path.is_dir()
    with tempfile.TemporaryDirectory(prefix="px-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def stand_in(temporary: Path) -> Path:
    return temporary / f"phalanx.{os.getuid()}"


@pytest.mark.parametrize("below", ["", "to/be/made"])
def test_a_home_that_takes_files_is_the_home(tmp_path: Path, below: str) -> None:
    home = find_home({"HOME": str(tmp_path / below)})
    assert (home.folder, home.missing, home.variables) == (tmp_path / below, None, {"HOME": str(tmp_path / below)})


def test_a_user_whose_home_takes_no_files_gets_a_private_one(temporary: Path) -> None:
    home = find_home({"HOME": "/proc"})
    assert (home.folder, home.variables) == (stand_in(temporary), {"HOME": str(stand_in(temporary))})
    assert home.missing is not None and home.missing.startswith("HOME is /proc: ")
    assert home.folder.stat().st_mode & 0o777 == 0o700
    assert find_home({"HOME": "/proc/none"}).folder == home.folder  # what was built there is found again


def test_a_user_that_the_system_does_not_know_gets_one_too(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    for environ in ({}, {"HOME": ""}):
        home = find_home(environ)
        assert home.folder == stand_in(temporary)
        assert home.missing == "HOME is unset, and the system knows no home of this user"


def test_models_in_a_home_that_can_only_be_read_are_still_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub = tmp_path / ".cache" / "huggingface"
    hub.mkdir(parents=True)
    monkeypatch.setattr(folders, "obstacle", lambda _: "Read-only file system")
    assert find_home({"HOME": str(tmp_path)}).variables["HF_HOME"] == str(hub)
    assert "HF_HOME" not in find_home({"HOME": str(tmp_path), "HF_HOME": "/models"}).variables


@pytest.mark.parametrize("kind", ["file", "link", "open"])
def test_what_somebody_else_put_in_the_place_of_a_home_is_not_used(temporary: Path, tmp_path: Path, kind: str) -> None:
    match kind:
        case "file":
            stand_in(temporary).touch()
        case "link":
            stand_in(temporary).symlink_to(tmp_path)
        case _:
            stand_in(temporary).mkdir()
            stand_in(temporary).chmod(0o777)
    with pytest.raises(SettingsError, match=r"cannot stand in for it .*: set HOME to a folder of this user's"):
        find_home({"HOME": "/proc"})


def test_logs_go_where_they_are_wanted_or_where_state_is() -> None:
    home = {"HOME": "/home/me"}
    assert log_folder(Settings(log_dir=Path("/logs")), home) == Path("/logs")
    assert log_folder(Settings(port=81), home) == Path("/home/me/.local/state/phalanx/logs/81")
    assert log_folder(Settings(), home | {"XDG_STATE_HOME": "/state"}) == Path("/state/phalanx/logs/8000")


def test_the_journal_is_where_it_is_wanted_or_where_data_are() -> None:
    home = {"HOME": "/home/me"}
    default = journal_place(None, None, 81, home)
    assert default == FolderPlace(Path("/home/me/.local/share/phalanx/81"), is_default=True)
    assert journal_place(None, None, 81, home | {"XDG_DATA_HOME": "/data"}) == FolderPlace(
        Path("/data/phalanx/81"), is_default=True
    )
    assert journal_place(Path("/mine"), None, 81, home) == FolderPlace(Path("/mine"))
    server = journal_place(None, "postgresql://me:secret@db:5/j", 81, home)
    assert (str(server), repr(server)) == ("the journal on me@db:5/j", "ServerPlace(me@db:5/j)")


def test_folders_that_were_chosen_and_take_no_files_are_refused(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    check_folders(Settings(), home)
    assert list(tmp_path.iterdir()) == []  # nothing is made before it is needed
    with pytest.raises(SettingsError, match=r"no logs can be written in /proc/phalanx/logs/8000 .*--log-dir"):
        check_folders(Settings(), home | {"XDG_STATE_HOME": "/proc"})
    with pytest.raises(SettingsError, match=r"no cache can be written in /proc .*set XDG_CACHE_HOME"):
        check_folders(Settings(), home | {"XDG_CACHE_HOME": "/proc"})
    check_folders(
        Settings(log_dir=tmp_path, engine="simulated"), home | {"XDG_STATE_HOME": "/proc", "XDG_CACHE_HOME": "/proc"}
    )


def test_sockets_get_a_short_folder(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert socket_folder() == temporary
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/" + "long/" * 20)
    assert socket_folder() == Path("/tmp")
    monkeypatch.setattr(folders, "SHORT_FOLDER", "/proc")
    with pytest.raises(SettingsError, match="set TMPDIR to a folder of at most 40 bytes"):
        socket_folder()


def test_no_temporary_folder_at_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc"])
    with pytest.raises(SettingsError, match=r"No usable temporary directory.*/proc.*: set TMPDIR to a folder"):
        temporary_folder()


def test_a_tilde_of_nobody_is_refused() -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings({"log_dir": "~nobody-here/logs"}, {})
    assert str(raised.value).endswith("~nobody-here is no home that the system knows; write the whole path")


def test_what_waits_to_be_read_is_kept_where_much_fits(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert spool_folder(None) == Path("/var/tmp")
    assert spool_folder(Path("/mnt/fast")) == Path("/mnt/fast")
    monkeypatch.setattr(folders, "LARGE_FOLDER", "/proc")
    assert spool_folder(None) == temporary


@pytest.mark.parametrize("folder", ["/proc", "/none"])
def test_a_spool_folder_that_takes_no_files_ends_the_start(tmp_path: Path, folder: str) -> None:
    home = {"HOME": str(tmp_path)}
    with pytest.raises(SettingsError, match=rf"nothing can be kept in {folder} \(.+\): .* --spool-dir"):
        check_folders(Settings(spool_dir=folder), home)
    check_folders(Settings(spool_dir=str(tmp_path)), home)
    check_folders(Settings(spool_dir=folder, node_size=2, node_rank=1), home)  # nothing is kept there
