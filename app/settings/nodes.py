"""Settings of a service on several machines that people start."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from app.settings.field_types import NotNegative, Positive, Seconds, home
from app.settings.section import Section, setting


class NodeSettings(Section):
    """Nodes: the same command on each machine, but for --node-rank"""

    node_size: Positive = setting(1, "Number of nodes; each has the same number of ranks.", "--nnodes")
    node_rank: NotNegative = setting(0, "This node's number; 0 is the one that clients ask.")
    master_addr: str = setting("", "Node 0's address, as the others reach it.")
    master_port: int = setting(0, "Node 0's port for the others.", ge=0, le=65535)
    node_keys_file: Annotated[Path | None, BeforeValidator(home)] = setting(
        None, "What nodes prove to belong together by, as `phalanx node-keys create` makes it; a copy on each."
    )
    node_timeout_s: Seconds = setting("10m", "For all nodes to meet for the first time.")
