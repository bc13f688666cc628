"""What a Ray cluster looks like. By Ray Client nobody can ask for all of it, so an actor in the cluster does.

Ray carries this class over by value, since it runs where Phalanx may not be installed: it uses nothing of Phalanx, and
imports what it needs where it needs it.
"""

from collections.abc import Sequence
from typing import Any


class Watcher:
    """Looks when it is asked."""

    def look(self, placements: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
        """The nodes, and those of the placement groups that there are, by name. Any: plain values, as messages have."""
        import ray
        from ray._private.state import state  # the only way to hear of nodes that are being drained
        from ray.util.placement_group import placement_group_table

        draining, free = state.get_draining_nodes(), state.available_resources_per_node()
        nodes = [
            {
                "id": node["NodeID"],
                "name": node["NodeManagerHostname"],
                "address": node["NodeManagerAddress"],
                "is_alive": node["Alive"],
                "is_draining": node["NodeID"] in draining,
                "total": dict(node["Resources"]),
                "available": dict(free.get(node["NodeID"], {})),
            }
            for node in ray.nodes()
        ]
        tables = {table["name"]: table for table in placement_group_table().values()}
        return nodes, {name: self._seen(tables[name]) for name in placements if name in tables}

    @staticmethod
    def _seen(table: dict[str, Any]) -> dict[str, Any]:
        where = table["bundles_to_node_id"]
        nodes = [where[number] for number in sorted(where)]
        return {
            "state": table["state"],
            "scheduling": table["stats"]["scheduling_state"],
            "nodes": [node if node.strip("f") else "" for node in nodes],  # Ray's id of no node is all ones
        }
