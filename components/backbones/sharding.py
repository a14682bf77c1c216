"""Sharding modules over processes, unit by unit, with PyTorch's fully sharded data parallelism (`fully_shard`).

A unit's weights are gathered just before it runs and freed right after; a unit that is not run is never gathered. Which
parts of a transformer are units its own ``shard`` decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor


def shard_units(
    units: Iterable[nn.Module], mesh: DeviceMesh, device: torch.device, compute_dtype: torch.dtype | None = None
) -> None:
    """Move modules to ``device`` and shard each as a unit, in the given order: inner ones before what holds them.

    No more than one unit is ever whole on the device. All ranks take rank 0's values. Trainable weights are kept in
    float32, frozen ones in the precision they have.

    Args:
        units: modules with their weights loaded, not yet sharded, whose ``forward`` uses all of their own weights.
        mesh: one-dimensional; the processes that share the weights.
        device: where this process computes.
        compute_dtype: precision in which units gather their weights and compute; None computes in the precision the
            weights have. Gradients are summed over the processes in float32 either way.
    """
    # Inputs are not cast: timesteps on the 0-1000 scale would be rounded to multiples of four.
    # summed in float32: in bfloat16 the gradients of many processes lose what is small
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for unit in units:
        _place(unit, mesh, device)
        fully_shard(unit, mesh=mesh, mp_policy=policy)


def is_sharded(module: nn.Module) -> bool:
    """True once `shard_units` has run over the module or a part of it."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


def reshard(module: nn.Module) -> None:
    """Give up gathered weights, so that parameters are shards again and later changes to them take effect.

    A forward pass without a backward pass (validation) leaves the root's weights gathered.
    """
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The whole of a possibly sharded tensor; every rank has to call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a possibly sharded tensor, as a view."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _place(unit: nn.Module, mesh: DeviceMesh, device: torch.device) -> None:
    """Move what is not sharded yet to ``device`` and give it rank 0's values."""
    for parameter in _unsharded(unit.parameters()):
        # Small steps of an optimizer are lost in bfloat16.
        dtype = torch.float32 if parameter.requires_grad else parameter.dtype
        # through ``.data``, so that the parameter stays the same object in its module
        parameter.data = parameter.data.to(device, dtype)
    for part in unit.modules():
        for name, buffer in part.named_buffers(recurse=False):
            # registered again under its name, which keeps whether it is saved
            part.register_buffer(name, buffer.to(device), persistent=name not in part._non_persistent_buffers_set)
    # rank 0's, for fresh layers too: each process has drawn its own
    for tensor in chain(_unsharded(unit.parameters()), unit.buffers()):
        dist.broadcast(tensor.detach(), group=mesh.get_group(), group_src=0)


def _unsharded(parameters: Iterator[nn.Parameter]) -> Iterator[nn.Parameter]:
    return (parameter for parameter in parameters if not isinstance(parameter, DTensor))
