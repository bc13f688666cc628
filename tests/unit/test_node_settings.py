"""What nodes are told, and what is refused before anything starts."""

import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from app.settings.checks import check_environment
from app.settings.declaration import SettingsError
from app.settings.loading import load_settings
from engines.contract.node_keys import NodeKeysError, read_node_keys
from engines.host.network import network_variables, own_address_towards
from phalanx.cli import cli

NODES: dict[str, Any] = {
    "engine": "simulated",
    "dp_size": "4",
    "node_size": "2",
    "master_addr": "127.0.0.1",
    "master_port": "7000",
    "insecure": "1",
}


def problem(**given: Any) -> str:
    with pytest.raises(SettingsError) as failure:
        check_environment(load_settings(NODES | given, {}))
    (line,) = str(failure.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"node_rank": "2"}, "--node-rank (PHALANX_NODE_RANK) is 2: with --node-size 2 it must be 0 to 1"),
        ({"dp_size": "3"}, "--dp-size (PHALANX_DP_SIZE) is 3: it must be divisible by --node-size, 2"),
        ({"dp_size": None}, "--dp-size (PHALANX_DP_SIZE) is missing: say how many ranks the 2 nodes have together"),
        ({"master_addr": None}, "--master-addr (PHALANX_MASTER_ADDR) is missing"),
        ({"master_port": None}, "--master-port (PHALANX_MASTER_PORT) is missing"),
        ({"insecure": None}, "--node-keys-file (PHALANX_NODE_KEYS_FILE) is missing: make one with `phalanx node-keys"),
        (
            {"node_keys_file": "/none/keys"},
            "/none/keys is not there: make it with `phalanx node-keys create /none/keys`",
        ),
        ({"master_addr": "no.such.host.invalid"}, "no.such.host.invalid: it cannot be resolved"),
        ({"master_addr": "192.0.2.1"}, "192.0.2.1: this machine, node 0, has no such address; name one of its own"),
        ({"node_size": "1", "dp_size": "1"}, "--node-size (PHALANX_NODE_SIZE) is 1: say how many nodes there are"),
    ],
)
def test_what_cannot_be_is_one_sentence(given: dict[str, Any], words: str) -> None:
    if given.get("node_size") == "1":
        with pytest.raises(SettingsError, match="is 1: say how many nodes"):
            load_settings(NODES | given, {})
        return
    assert words in problem(**given)


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made = CliRunner().invoke(cli, ["node-keys", "create", str(path)])
    assert made.exit_code == 0 and path.stat().st_mode & 0o777 == 0o600
    keys = read_node_keys(path)
    assert len({keys.gateway_public, keys.gateway_secret, keys.node_public, keys.node_secret}) == 4
    again = CliRunner().invoke(cli, ["node-keys", "create", str(path)])
    assert again.exit_code == 2 and "is there already" in again.output
    path.chmod(0o640)
    with pytest.raises(NodeKeysError, match="has mode 0640, so that other users may read it: `chmod 600"):
        read_node_keys(path)
    path.chmod(0o600)
    path.write_text("{}")
    with pytest.raises(NodeKeysError, match="holds no keys"):
        read_node_keys(path)


def test_ranks_of_a_group_find_one_another_by_the_route_to_node_0() -> None:
    own = own_address_towards("127.0.0.1")
    assert network_variables({}, "127.0.0.1") == {
        "VLLM_HOST_IP": own,
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    chosen = {"GLOO_SOCKET_IFNAME": "eth7", "VLLM_HOST_IP": "10.0.0.9", "NCCL_SOCKET_IFNAME": "ib0"}
    assert network_variables(chosen, "127.0.0.1") == {}


def test_only_node_0_needs_an_address_for_clients() -> None:
    assert load_settings(NODES | {"node_rank": "1", "insecure": None, "node_keys_file": os.devnull}, {}).node_rank == 1
