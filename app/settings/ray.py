"""Settings of ranks that Ray places."""

from typing import Annotated, Literal

from pydantic import BeforeValidator

from app.settings.field_types import JsonObject, Text, lower
from app.settings.section import Section, setting


class RaySettings(Section):
    """Ray: who finds machines for the ranks"""

    launcher: Annotated[Literal["spawn", "ray"], BeforeValidator(lower)] = setting(
        "spawn", "spawn: ranks run here, and on nodes that you start. ray: where Ray places them."
    )
    ray_address: Text = setting(
        "auto",
        "auto: the cluster of this machine. HOST:PORT of its head, or ray://HOST:PORT. local: one of its own.",
    )
    ray_strategy: Annotated[Literal["pack", "spread", "strict_pack", "strict_spread"], BeforeValidator(lower)] = (
        setting("pack", "How the ranks of a lock-step group lie on nodes, in Ray's words.")
    )
    ray_resources: JsonObject = setting(
        {}, 'JSON object of what each rank needs, beside its GPUs, such as {"CPU": 8}. Default: a core for each worker.'
    )
    ray_runtime_env: JsonObject = setting({}, "JSON object: Ray's runtime_env of the processes on the nodes.")
