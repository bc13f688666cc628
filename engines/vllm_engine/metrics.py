"""vLLM's own metrics in Prometheus' text format, with the label `engine` set to the rank.

Every engine calls itself "0" unless it is part of a lock-step group; told apart by nothing, their series would
collide when the gateway merges them.
"""

from prometheus_client import REGISTRY, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

PREFIX = "vllm:"


class _Relabelled(Collector):
    def __init__(self, rank: int) -> None:
        self._rank = str(rank)

    def collect(self) -> "list[Metric]":
        return [self._relabel(family) for family in REGISTRY.collect() if family.name.startswith(PREFIX)]

    def _relabel(self, family: Metric) -> Metric:
        relabelled = Metric(family.name, family.documentation, family.type, family.unit)
        relabelled.samples = [
            sample._replace(labels={**sample.labels, "engine": self._rank}) for sample in family.samples
        ]
        return relabelled


def exposition(rank: int) -> bytes:
    """All `vllm:*` families of this process."""
    return generate_latest(_Relabelled(rank))
