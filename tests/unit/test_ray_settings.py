"""What is refused of settings for ranks that Ray places, before anything starts."""

from typing import Any

import pytest

from app.settings.declaration import SettingsError
from app.settings.loading import load_settings

RAY: dict[str, Any] = {"engine": "simulated", "launcher": "ray", "dp_size": "2"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dp_size": None}, "--dp-size (PHALANX_DP_SIZE) is missing: say how many ranks Ray is to place"),
        ({"node_size": "2"}, "--node-size (PHALANX_NODE_SIZE) is set, and --launcher (PHALANX_LAUNCHER) is ray, which"),
        ({"node_keys_file": "keys.json"}, "--node-keys-file (PHALANX_NODE_KEYS_FILE) is set, and --launcher"),
        ({"ray_address": "there"}, "(PHALANX_RAY_ADDRESS) is there: it must be auto, local, HOST:PORT or ray://"),
        (
            {"ray_address": "head:0"},
            "is head:0: it must be auto, local, HOST:PORT or ray://HOST:PORT, with a port from 1",
        ),
        ({"ray_address": "ray://head:65536"}, "is ray://head:65536: it must be auto, local, HOST:PORT or ray://HOST"),
        ({"ray_address": "ray://head"}, "is ray://head: it must be auto, local, HOST:PORT or ray://HOST:PORT"),
        ({"ray_resources": '{"GPU": 1}'}, "GPU in --ray-resources (PHALANX_RAY_RESOURCES) follows from --tp-size"),
        (
            {"ray_resources": '{"CPU": "two"}'},
            "CPU in --ray-resources (PHALANX_RAY_RESOURCES) is two: it must be a number",
        ),
        ({"ray_resources": '{"CPU": 0}'}, "is 0: it must be a number from 0.0001 up"),
        ({"ray_resources": '{"CPU": 0.00001}'}, "is 1e-05: it must be a number from 0.0001 up"),
        ({"ray_resources": '{"CPU": 1e999}'}, "is inf: it must be a number from 0.0001 up"),
        (
            {"ray_resources": '{"CPU": NaN}'},
            '--ray-resources (PHALANX_RAY_RESOURCES) is {"CPU": NaN}: it must be a JSON',
        ),
        ({"ray_resources": '{" ": 1}'}, "a name in --ray-resources (PHALANX_RAY_RESOURCES) is empty: name a resource"),
        (
            {"ray_resources": '{"object_store_memory": 5}'},
            "object_store_memory in --ray-resources (PHALANX_RAY_RESOURC",
        ),
        ({"ray_strategy": "loose"}, "--ray-strategy (PHALANX_RAY_STRATEGY) is loose: it must be 'pack', 'spread', "),
        ({"launcher": "spawn", "ray_address": "local"}, "--ray-address (PHALANX_RAY_ADDRESS) is set, and --launcher"),
    ],
)
def test_what_cannot_be_is_one_sentence(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as failure:
        load_settings(RAY | given, {})
    (line,) = str(failure.value).splitlines()
    assert words in line


@pytest.mark.parametrize(
    "address", ["auto", "local", "10.0.0.1:6379", "head.ray:6379", "[fd00::1]:6379", "ray://head:10001"]
)
def test_these_are_addresses(address: str) -> None:
    assert load_settings(RAY | {"ray_address": address}, {}).ray_address == address
