"""What a Ray cluster lacks for bundles, in words."""

from collections.abc import Iterable, Mapping, Sequence

from app.ranks.hosts.ray.messages import RayNode
from app.settings.declaration import flag

Resources = Mapping[str, float]


def fits(bundle: Resources, resources: Resources) -> bool:
    """Whether a node with these resources holds the bundle."""
    return all(resources.get(name, 0) >= amount for name, amount in bundle.items())


def could_ever_fit(bundle: Resources, nodes: Iterable[RayNode]) -> bool:
    """Whether any node of the cluster could hold it, were nothing else there."""
    return any(fits(bundle, node.total) for node in nodes if node.is_alive)


def shortage(bundle: Resources, missing: int, nodes: Sequence[RayNode], strategy: str = "PACK", count: int = 1) -> str:
    """Why so many bundles of a group of `count` have no place."""
    alive = [node for node in nodes if node.is_alive and not node.is_draining]
    if not could_ever_fit(bundle, alive):
        most = in_words(_most(bundle, [node.total for node in alive]))
        return (
            f"no node of the Ray cluster has {in_words(bundle)}, which each rank needs; the most that one of its nodes "
            f"({len(alive)}) has is {most}: add such a node, or lower {flag('tp_size')} or {flag('ray_resources')}"
        )
    if (never := _never_so(bundle, alive, strategy, count)) is not None:
        return f"{never}, or choose another {flag('ray_strategy')}"
    free = {name: sum(node.available.get(name, 0) for node in alive) for name in bundle}
    bundles = f"{missing} bundles of {in_words(bundle)}" if missing > 1 else f"a bundle of {in_words(bundle)}"
    words = (
        f"the Ray cluster has no room for {bundles}; {in_words(free)} free on all of its nodes ({len(alive)}) together"
    )
    if fits(bundle, free):  # it is not the sum that is too little
        words += f", and {in_words(_most(bundle, [node.available for node in alive]))} at most on one of them"
    return words if strategy in ("PACK", "SPREAD") else f"{words}; {flag('ray_strategy')} is {strategy.lower()}"


def _never_so(bundle: Resources, alive: Sequence[RayNode], strategy: str, count: int) -> str | None:
    """Why a strict strategy cannot be followed in this cluster; None where it can."""
    if strategy == "STRICT_PACK":
        whole = {name: amount * count for name, amount in bundle.items()}
        if not could_ever_fit(whole, alive):
            most = in_words(_most(bundle, [node.total for node in alive]))
            needs = f"no node of the Ray cluster has {in_words(whole)}, which the {count} ranks need together on one"
            return (
                f"{needs} (strict_pack); the most that one of its nodes ({len(alive)}) has is {most}: add such a node"
            )
    if strategy == "STRICT_SPREAD":
        able = sum(fits(bundle, node.total) for node in alive)
        if able < count:
            needs = f"the {count} ranks need a node each (strict_spread) with {in_words(bundle)}"
            return f"{needs}, and the Ray cluster has {able} such nodes: add nodes"
    return None


def _most(bundle: Resources, of_nodes: Sequence[Resources]) -> Resources:
    """Of each resource, what one of the nodes has."""
    return {name: max((resources.get(name, 0) for resources in of_nodes), default=0) for name in bundle}


def in_words(resources: Resources) -> str:
    """Such as 2 GPU and 1 CPU."""
    return " and ".join(f"{amount:g} {name}" for name, amount in sorted(resources.items(), reverse=True))
