"""The manifest for Kubernetes: its command is one that the service takes, and its Ray the one that is pinned."""

import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner
from ray.scripts.scripts import cli as ray_commands

from phalanx.cli import cli

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "deploy" / "ray" / "phalanx-rayjob.yaml"
Json = dict[str, Any]


def manifest() -> tuple[Json, Json]:
    job, service = yaml.safe_load_all(MANIFEST.read_text())
    return job, service


def cluster() -> Json:
    found: Json = manifest()[0]["spec"]["rayClusterSpec"]
    return found


def only_container(template: Json) -> Json:
    found: Json
    (found,) = template["spec"]["containers"]
    return found


def flags() -> dict[str, str]:
    """Those with a value, of its command."""
    words = shlex.split(manifest()[0]["spec"]["entrypoint"])
    return {word: value for word, value in itertools.pairwise(words) if word.startswith("--")}


def test_its_command_is_refused_for_what_is_not_there_and_for_nothing_else() -> None:
    program, *arguments = shlex.split(manifest()[0]["spec"]["entrypoint"])
    assert program == "phalanx"
    ended = CliRunner().invoke(cli, [*arguments, "--port", "0"])
    assert str(ended.exception).startswith("--api-keys-file (PHALANX_API_KEYS_FILE): ")
    assert "/keys/keys.json" in str(ended.exception) and len(str(ended.exception).splitlines()) == 1


def test_its_ray_is_the_pinned_one() -> None:
    (pinned,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert manifest()[0]["spec"]["rayClusterSpec"]["rayVersion"] == pinned


def test_it_is_a_rayjob_and_a_service_of_the_same_name() -> None:
    job, service = manifest()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
    assert job["metadata"]["name"] == service["metadata"]["name"] == flags()["--allowed-hosts"]


def test_its_service_finds_the_gateway() -> None:
    _, service = manifest()
    head = cluster()["headGroupSpec"]["template"]
    assert service["spec"]["selector"].items() <= head["metadata"]["labels"].items()
    ports = {port["name"]: str(port["containerPort"]) for port in only_container(head)["ports"]}
    (port,) = service["spec"]["ports"]
    assert ports[port["targetPort"]] == flags()["--port"] == str(port["port"])
    assert flags()["--host"] == "0.0.0.0"  # noqa: S104  the Service comes to the address of the pod


def test_its_workers_hold_the_ranks() -> None:
    (group,) = cluster()["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    asked = only_container(group["template"])["resources"]
    ranks_on_a_worker = asked["limits"]["nvidia.com/gpu"] // int(flags().get("--tp-size", 1))
    assert group["replicas"] * ranks_on_a_worker == int(flags()["--dp-size"])
    assert asked["requests"]["nvidia.com/gpu"] == asked["limits"]["nvidia.com/gpu"]
    assert "nvidia.com/gpu" not in only_container(cluster()["headGroupSpec"]["template"])["resources"]["requests"]


def test_what_is_mounted_is_there_and_is_what_the_gateway_uses() -> None:
    head = cluster()["headGroupSpec"]["template"]
    for template in (head, *(group["template"] for group in cluster()["workerGroupSpecs"])):
        volumes = {volume["name"] for volume in template["spec"]["volumes"]}
        assert {mount["name"] for mount in only_container(template)["volumeMounts"]} == volumes
    mounts = [mount["mountPath"] for mount in only_container(head)["volumeMounts"]]
    image = (ROOT / "docker" / "Dockerfile.cuda").read_text()
    assert str(Path(flags()["--api-keys-file"]).parent) in mounts
    assert re.findall(r"XDG_STATE_HOME=(\S+)", image)[0] in mounts  # the journal's folder is below it, too
    (secret,) = [volume["secret"]["secretName"] for volume in head["spec"]["volumes"] if "secret" in volume]
    created = f"create secret generic {secret} --from-file={Path(flags()['--api-keys-file']).name}"
    assert created in MANIFEST.read_text()


def test_its_probe_is_a_command_of_rays() -> None:
    head = only_container(cluster()["headGroupSpec"]["template"])
    program, name, *arguments = head["readinessProbe"]["exec"]["command"]
    assert program == "ray"
    context = ray_commands.commands[name].make_context(name, arguments)  # raises for an unknown flag
    ports = {port["name"]: port["containerPort"] for port in head["ports"]}
    assert context.params["address"] == f"127.0.0.1:{ports['gcs-server']}"
