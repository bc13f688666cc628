"""Addresses that other machines reach: with keys, with an explicit word, or not at all."""

import subprocess
from pathlib import Path

import httpx

from app.keys.store import KeysFile
from tests.service import COMMAND, serving

ALL_ADDRESSES = "0.0.0.0"  # noqa: S104  what is tested
SIMULATED = ("--engine", "simulated", "--port", "0")


def test_nobody_serves_the_network_without_saying_so() -> None:
    for host in (ALL_ADDRESSES, "::"):
        done = subprocess.run(
            [COMMAND, "serve", *SIMULATED, "--host", host], check=False, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith(f"phalanx: --host (PHALANX_HOST) is {host}, which other machines may reach")
        assert done.stderr.count("\n") == 1 and "--insecure" in done.stderr and "--api-keys-file" in done.stderr


def test_who_says_so_serves_everybody_and_is_warned() -> None:
    with serving("--host", ALL_ADDRESSES, "--insecure") as service:
        assert service.batch(["a"])["request_counts"]["ok"] == 1
        assert [fact["host"] for fact in service.facts("open_to_the_network")] == [ALL_ADDRESSES]
    with serving("--host", ALL_ADDRESSES, variables={"PHALANX_INSECURE": "1"}) as service:
        assert service.batch(["a"])["request_counts"]["ok"] == 1


def test_with_keys_there_is_no_need_to_and_the_word_opens_nothing(tmp_path: Path) -> None:
    file = KeysFile(tmp_path / "keys.json")
    secret = file.create("one").secret
    for word in ((), ("--insecure",)):
        with serving("--host", ALL_ADDRESSES, "--api-keys-file", str(file.path), *word, api_key=secret) as service:
            assert service.batch(["a"])["request_counts"]["ok"] == 1
            assert httpx.get(f"{service.url}/v1/models").status_code == 401
            assert "open_to_the_network" not in service.log
