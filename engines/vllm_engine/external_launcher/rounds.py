"""The collectives between two steps, on the workers' CPU groups (gloo): they cost a fraction of a millisecond."""

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from vllm.distributed.parallel_state import get_tp_group, get_world_group

from engines.vllm_engine.external_launcher.orders import Head


class Rounds:
    """All workers of the group call the same methods in the same order."""

    def __init__(self) -> None:
        world, rank = get_world_group(), get_tp_group()
        self._world, self._world_size = world.cpu_group, world.world_size
        self._rank, self._leader = rank.cpu_group, rank.ranks[0]
        self.workers: int = rank.world_size
        self.leads: bool = rank.rank_in_group == 0

    def exchange(self, head: Head) -> list[Head]:
        """Everybody's head, in the order of their numbers. Waits for the last."""
        own = torch.tensor(head, dtype=torch.int64)
        heads = [torch.empty_like(own) for _ in range(self._world_size)]
        dist.all_gather(heads, own, group=self._world)
        return [Head(*received.tolist()) for received in heads]

    def hand_down(self, frame: bytes, heads: Sequence[Head]) -> bytes:
        """The leader's frame, in all workers of its rank. It knows from the heads how long it is."""
        size = heads[self._leader].orders_bytes
        if size == 0:
            return b""
        body = (
            torch.frombuffer(bytearray(frame), dtype=torch.uint8)
            if self.leads
            else torch.empty(size, dtype=torch.uint8)
        )
        dist.broadcast(body, src=self._leader, group=self._rank)
        return frame if self.leads else body.numpy().tobytes()

    def pids(self) -> list[int]:
        """The process numbers of the rank's workers, in the order of their numbers."""
        found = [0] * self.workers
        dist.all_gather_object(found, os.getpid(), group=self._rank)
        return found
