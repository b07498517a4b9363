"""Processes that share a training, as torchrun and accelerate start them.

One of them leads: it alone reads what was asked, writes the run's folder and does what follows
the training. The others hear from it what to train, and end with the training.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from llamune.train.errors import TrainError

__all__ = ["Team"]


@dataclass
class Team:
    """This process among those that train together; alone it is a team of one.

    Args:
        rank: this process's number; 0 leads.
        size: how many processes there are, on all machines.
        local_size: how many of them are on this machine.
        local_rank: this process's number among those.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1
    local_rank: int = 0
    told: bool = False  # whether the leader has said what to train

    @classmethod
    def of_environment(cls) -> Team:
        """Return what torchrun says of this process; a team of one where nothing is said."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        return cls(
            rank=int(os.environ.get("RANK", "0")),
            size=size,
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", str(size))),
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        )

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def tell(self, message: Any) -> None:
        """Say something to every other process."""
        self.told = True
        if self.size > 1:
            self.spread([message])

    def hear(self) -> Any:
        """Wait for what the leading process says."""
        message = [None]
        self.spread(message)
        return message[0]

    def spread(self, message: list[Any]) -> None:
        """Bring the leader's message to every process.

        Raises:
            TrainError: the others cannot be reached.
        """
        from torch import distributed

        try:
            if not distributed.is_initialized():
                distributed.init_process_group(backend(self.local_rank))
            distributed.broadcast_object_list(message, src=0)
        except (RuntimeError, ValueError) as error:
            raise TrainError(
                f"process {self.rank} of {self.size} cannot reach the others: {error}",
                hint="start all of them with torchrun or accelerate launch",
            ) from error

    def part(self) -> None:
        """Leave the others: what follows concerns this process alone."""
        if self.size > 1:
            from torch import distributed

            if distributed.is_initialized():
                distributed.barrier()
                distributed.destroy_process_group()


def backend(local_rank: int) -> str:
    """Return how processes talk: gloo for what lies in memory, NCCL for what lies on GPUs.

    Each process takes the GPU of its own number.
    """
    import torch

    if not torch.cuda.is_available():
        return "gloo"
    torch.cuda.set_device(local_rank % torch.cuda.device_count())
    return "cpu:gloo,cuda:nccl"


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process; all of them must ask."""
    import torch
    from torch import distributed

    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return flag
    on_gpu = torch.cuda.is_available() and "nccl" in distributed.get_backend()
    found = torch.tensor(int(flag), device="cuda" if on_gpu else "cpu")
    distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
    return bool(found.item())
