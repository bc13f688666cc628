"""The manifest against KubeRay's own schema of a RayJob, which is too large to be kept here.

--crd FILE or --crd URL names it: config/crd/bases/ray.io_rayjobs.yaml of KubeRay's ray-operator. Checked as the
Kubernetes API server would check it, strictly: what the schema does not name is refused. Its rules in CEL are not read.
"""

import urllib.request
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

MANIFEST = Path(__file__).parents[2] / "deploy" / "ray" / "phalanx-rayjob.yaml"


@pytest.fixture(scope="module")
def crd(request: pytest.FixtureRequest) -> dict[str, Any]:
    place = request.config.getoption("--crd", None)
    if place is None:
        pytest.skip("--crd is missing: the file, or the URL, of KubeRay's ray.io_rayjobs.yaml")
    if "://" in place:
        with urllib.request.urlopen(place, timeout=60) as answer:  # noqa: S310  whoever runs the test has named it
            return dict(yaml.safe_load(answer.read()))
    return dict(yaml.safe_load(Path(place).read_text()))


def strictly(schema: Any) -> Any:  # Any: as JSON schemas are
    """The schema as JSON Schema has it; an object has no other fields than those it names."""
    if isinstance(schema, list):
        return [strictly(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    found = {name: strictly(part) for name, part in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not is_open:
        found["additionalProperties"] = False
    return found


def faults(job: dict[str, Any], crd: dict[str, Any]) -> list[str]:
    """What is wrong with a RayJob, each with its place."""
    (version,) = [
        one for one in crd["spec"]["versions"] if f"{crd['spec']['group']}/{one['name']}" == job["apiVersion"]
    ]
    schema = strictly(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes knows it, and the schema does not say it
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(job)]


def test_the_manifest_is_a_rayjob(crd: dict[str, Any]) -> None:
    job, _ = yaml.safe_load_all(MANIFEST.read_text())
    assert crd["spec"]["names"]["kind"] == job["kind"]
    assert faults(job, crd) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "entrypont"), "phalanx"),
        (("spec", "backoffLimit"), "three"),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "imge"), "IMAGE"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "replicas"), -0.5),
    ],
)
def test_what_is_no_rayjob_is_found(crd: dict[str, Any], path: tuple[str | int, ...], value: object) -> None:
    job, _ = yaml.safe_load_all(MANIFEST.read_text())
    place: Any = job
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert len(faults(job, crd)) == 1
