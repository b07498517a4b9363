"""Float weights shared out among processes: each keeps a part of every matrix's rows (FSDP2).

A block's weights are gathered when the block is reached and forgotten after it; gradients are
averaged and cut into the same parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["move_buffers", "part_of", "process_mesh", "put_part", "share_out", "whole"]


def process_mesh(device: str | torch.device) -> DeviceMesh:
    """Return all processes of this training, in a row.

    Args:
        device: where weights live; its kind says how processes talk.
    """
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(torch.device(device).type, (distributed.get_world_size(),))


def share_out(model: Any, mesh: DeviceMesh) -> None:
    """Give each process its part of every parameter, in place; they may lie on "meta" yet.

    Args:
        model: the ordinary transformers model.
        mesh: the processes.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # sums of 16-bit gradients would lose what each process adds
    exact = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=exact)
    # embedding, last norm and output: together, for embedding and output may be one matrix
    fully_shard(model, mesh=mesh, mp_policy=exact, reshard_after_forward=True)


def put_part(module: nn.Module, name: str, values: Tensor) -> None:
    """Put this process's part of a parameter's values in its place.

    Args:
        module: of a model that was shared out.
        name: of the parameter in the module.
        values: all of it.
    """
    from torch.distributed.tensor import DTensor

    parameter: Any = module.get_parameter(name)
    mesh = parameter.device_mesh
    parts = values.chunk(mesh.size(), dim=0)  # the last processes may get nothing
    rank = mesh.get_local_rank()
    own = parts[rank] if rank < len(parts) else values[:0]
    part = DTensor.from_local(
        own.clone(),
        mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
    # the hook that torch has on loading tells its own notes of the parameter
    module.load_state_dict({name: part}, strict=False, assign=True)


def move_buffers(model: nn.Module, device: torch.device) -> None:
    """Bring to the device what no process has a part of; `to` would touch the weights too."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


def part_of(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, sharing its memory; all of one that is whole."""
    local = getattr(tensor.detach(), "to_local", None)
    return tensor.detach() if local is None else local()


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor; of one that is shared out every process must ask."""
    gathered = getattr(tensor.detach(), "full_tensor", None)
    return tensor.detach() if gathered is None else gathered()
