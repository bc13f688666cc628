"""The manifest for Kubernetes: its command is one that the service takes, and its Ray the one that is pinned."""

import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner

from phalanx.cli import cli

ROOT = Path(__file__).parents[2]


def manifest() -> tuple[dict[str, Any], dict[str, Any]]:
    job, service = yaml.safe_load_all((ROOT / "deploy" / "ray" / "phalanx-rayjob.yaml").read_text())
    return job, service


def test_its_command_is_refused_for_what_is_not_there_and_for_nothing_else() -> None:
    program, *arguments = shlex.split(manifest()[0]["spec"]["entrypoint"])
    assert program == "phalanx"
    ended = CliRunner().invoke(cli, [*arguments, "--port", "0"])
    assert str(ended.exception).startswith("--api-keys-file (PHALANX_API_KEYS_FILE): ")
    assert "/keys/keys.json" in str(ended.exception) and len(str(ended.exception).splitlines()) == 1


def test_its_ray_is_the_pinned_one() -> None:
    (pinned,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert manifest()[0]["spec"]["rayClusterSpec"]["rayVersion"] == pinned


def test_its_service_finds_the_gateway() -> None:
    job, service = manifest()
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    assert service["spec"]["selector"].items() <= head["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in head["spec"]["containers"][0]["ports"]}
    assert ports[service["spec"]["ports"][0]["targetPort"]] == 8000
