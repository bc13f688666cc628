"""Becoming part of a Ray cluster, or a sentence that says why not."""

import platform
import re
import socket

import ray
from ray.exceptions import RayError

from app.ranks.hosts.ray.messages import LOCAL, Connected, Refused

AUTO = "auto"
CLIENT = "ray://"
PROBE_S = 5.0  # for somebody to listen at an address: Ray itself would wait for minutes
NAMESPACE = "phalanx"


def connect(address: str) -> Connected | Refused:
    """Called once in a process."""
    if (problem := _listening_problem(address)) is not None:
        return Refused(reason=problem)
    try:
        ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
            **({"include_dashboard": False} if address == LOCAL else {}),
        )
    except (RayError, RuntimeError, ValueError, OSError) as error:
        return Refused(reason=_why(address, f"{error}\n{error.__cause__ or error.__context__ or ''}"))
    has_gpus = any(node["Resources"].get("GPU") for node in ray.nodes() if node["Alive"])
    is_client = ray.util.client.ray.is_connected()  # as RAY_ADDRESS may say, too: this machine is no node
    own = "" if is_client else ray.util.get_node_ip_address()
    return Connected(ray_version=ray.__version__, address=own, has_gpus=has_gpus)


def _listening_problem(address: str) -> str | None:
    """Nothing for what is no address of a host."""
    if address in (LOCAL, AUTO):
        return None
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_S).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return (
            f"no Ray cluster answers at {address} ({reason}): start one there with `ray start --head`, or name another"
        )
    return None


def _why(address: str, said: str) -> str:
    """Ray's own words, as a sentence with what to do."""
    if "ersion mismatch" in said:
        theirs = dict(re.findall(r"(Ray|Python): ([\w.]+)", said.partition("This process")[0]))
        own = f"Ray {ray.__version__} with Python {platform.python_version()}"
        cluster = f"Ray {theirs.get('Ray', '?')} with Python {theirs.get('Python', '?')}"
        where = "on this machine" if address == AUTO else f"at {address}"
        return f"the cluster {where} runs {cluster}, and the gateway {own}: install the same for both"
    if "InvalidAuthToken" in said or "AuthenticationError" in said:
        return (
            f"the Ray cluster at {address} asks for a token that this machine does not show: set RAY_AUTH_MODE=token, "
            "and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as on its nodes"
        )
    if "No node info found" in said:
        return (
            f"this machine is no node of the Ray cluster at {address}: join it with `ray start --address {address}`, "
            f"or reach it from outside, with --ray-address {CLIENT}HOST:10001"
        )
    if "Failed to connect to Ray cluster" in said or "ray client connection timeout" in said:
        return f"no Ray cluster answers at {address}, though somebody listens there: {_other_address(address)}"
    if address == AUTO:
        return (
            "no Ray cluster runs on this machine: start one with `ray start --head`, join one with `ray start "
            "--address HEAD:6379`, or say --ray-address local for one of the gateway's own"
        )
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it does not say why"]
    reason = lines[-1] if lines[0].endswith(":") else lines[0]  # what is below may be a traceback of the head's
    return (
        f"the Ray cluster at {address} cannot be joined: {reason.rstrip('.')}; see the logs of its head, and that Ray "
        "and Python are the same there and here"
    )


def _other_address(address: str) -> str:
    """The two ports of a head are easily taken for each other."""
    if address.startswith(CLIENT):
        return "name the head's port of Ray Client, 10001 by default; the cluster's own nodes say HOST:6379"
    return f"name the head's --port, 6379 by default; Ray Client's is said as {CLIENT}HOST:10001"
