"""What a Ray cluster lacks for bundles, in words."""

from collections.abc import Iterable, Mapping, Sequence

from app.ranks.hosts.ray.messages import RayNode
from app.settings.declaration import flag


def fits(bundle: Mapping[str, float], resources: Mapping[str, float]) -> bool:
    """Whether a node with these resources holds the bundle."""
    return all(resources.get(name, 0) >= amount for name, amount in bundle.items())


def could_ever_fit(bundle: Mapping[str, float], nodes: Iterable[RayNode]) -> bool:
    """Whether any node of the cluster could hold it, were nothing else there."""
    return any(fits(bundle, node.total) for node in nodes if node.is_alive)


def shortage(bundle: Mapping[str, float], count: int, nodes: Sequence[RayNode]) -> str:
    """Why so many bundles have no place."""
    alive = [node for node in nodes if node.is_alive and not node.is_draining]
    wanted = in_words(bundle)
    if not could_ever_fit(bundle, alive):
        most = {name: max((node.total.get(name, 0) for node in alive), default=0) for name in bundle}
        return (
            f"no node of the Ray cluster has {wanted}, which each rank needs; the most that one of its nodes "
            f"({len(alive)}) has is {in_words(most)}: add such a node, or lower {flag('tp_size')} or "
            f"{flag('ray_resources')}"
        )
    free = {name: sum(node.available.get(name, 0) for node in alive) for name in bundle}
    bundles = f"{count} bundles of {wanted}" if count > 1 else f"a bundle of {wanted}"
    return (
        f"the Ray cluster has no room for {bundles}; {in_words(free)} free on all of its nodes ({len(alive)}) together"
    )


def in_words(resources: Mapping[str, float]) -> str:
    """Such as 2 GPU and 1 CPU."""
    return " and ".join(f"{amount:g} {name}" for name, amount in sorted(resources.items(), reverse=True))
