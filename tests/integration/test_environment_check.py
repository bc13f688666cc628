"""What the machine cannot fulfil is found before anything starts."""

import socket
from pathlib import Path

import pytest

from app.settings.checks import check_environment
from app.settings.declaration import Settings, SettingsError


def test_a_path_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no such folder"):
        check_environment(Settings(model=str(tmp_path / "none"), port=0))
    with pytest.raises(SettingsError, match=r"holds no config\.json"):
        check_environment(Settings(model=str(tmp_path), port=0))
    (tmp_path / "config.json").write_text("{}")
    check_environment(Settings(model=str(tmp_path), port=0))
    check_environment(Settings(model="some/hub-name", port=0))


def test_a_path_that_cannot_be_looked_at_is_refused() -> None:
    with pytest.raises(SettingsError, match="cannot be looked at"):
        check_environment(Settings(model="/" + "a" * 300, port=0))


def test_a_folder_for_logs_that_takes_none_is_refused(tmp_path: Path) -> None:
    check_environment(Settings(log_dir=tmp_path / "new" / "folder", port=0))
    assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", Path("/proc/none")):
        with pytest.raises(SettingsError, match="no logs can be written there"):
            check_environment(Settings(log_dir=folder, port=0))


def test_an_address_that_is_not_free_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SettingsError, match="another process listens"):
        check_environment(Settings(port=taken.getsockname()[1]))
    with pytest.raises(SettingsError, match="name an address of this machine"):
        check_environment(Settings(host="192.0.2.1", port=0))
    with pytest.raises(SettingsError, match="cannot be resolved"):
        check_environment(Settings(host="a" * 64, port=0))
