"""Sharding a `SyncphonyDiT` over processes with PyTorch's fully sharded data parallelism (`fully_shard`).

Every block and every audio layer is a unit of its own: its weights are gathered just before it runs and freed right
after, and a forward pass that skips the audio layers never gathers them. What is left (embedders, head) belongs to the
root unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from components.backbones.syncphony.model import SyncphonyDiT


def shard(dit: SyncphonyDiT, mesh: DeviceMesh, device: torch.device, compute_dtype: torch.dtype | None = None) -> None:
    """Move ``dit`` to ``device`` and shard it in place, unit by unit: no more than one unit is ever whole there.

    All ranks take rank 0's values. Trainable weights are kept in float32, frozen ones in the precision they have.

    Args:
        dit: the transformer, not yet sharded, with its weights loaded.
        mesh: one-dimensional; the processes that share the weights.
        device: where this process computes.
        compute_dtype: precision in which units gather their weights and compute; None computes in the precision the
            weights have. Gradients are summed over the processes in float32 either way.
    """
    layers = list(dit.audio_layers or ())
    shard_units((*dit.backbone.blocks, *layers, dit), mesh, device, compute_dtype)
    register_fsdp_forward_method(dit, "listen")
    for layer in layers:
        register_fsdp_forward_method(layer, "hear")


def shard_units(
    units: Iterable[nn.Module], mesh: DeviceMesh, device: torch.device, compute_dtype: torch.dtype | None = None
) -> None:
    """Move modules to ``device`` and shard each as a unit, in the given order: inner ones before what holds them.

    Args:
        units: modules whose ``forward`` uses all of their own weights.
        mesh: see `shard`.
        device: see `shard`.
        compute_dtype: see `shard`.
    """
    # Inputs are not cast: timesteps on the 0-1000 scale would be rounded to multiples of four.
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for unit in units:
        _place(unit, mesh, device)
        fully_shard(unit, mesh=mesh, mp_policy=policy)


def is_sharded(module: nn.Module) -> bool:
    """True once `shard` has run over the module or a part of it."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


def reshard(module: nn.Module) -> None:
    """Give up gathered weights, so that parameters are shards again and later changes to them are seen.

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
        dtype = torch.float32 if parameter.requires_grad else parameter.dtype
        parameter.data = parameter.data.to(device, dtype)
    for part in unit.modules():
        for name, buffer in part.named_buffers(recurse=False):
            part.register_buffer(name, buffer.to(device), persistent=name not in part._non_persistent_buffers_set)
    for tensor in chain(_unsharded(unit.parameters()), unit.buffers()):
        dist.broadcast(tensor.detach(), group=mesh.get_group(), group_src=0)


def _unsharded(parameters: Iterator[nn.Parameter]) -> Iterator[nn.Parameter]:
    return (parameter for parameter in parameters if not isinstance(parameter, DTensor))
