"""Sharding modules over processes, unit by unit, with PyTorch's fully sharded data parallelism (`fully_shard`).

A unit's weights are gathered just before it runs and freed right after; a unit that is not run is never gathered. Which
parts of a transformer are units its own ``shard`` decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

FrozenWeights = Literal["sharded", "replicated"]


@dataclass(frozen=True)
class Sharding:
    """How units are sharded.

    Attributes:
        compute_dtype: precision in which units gather their weights and compute; None computes in the precision the
            weights have.
        reduce_dtype: precision in which gradients are summed over the processes, and over the batches before that whose
            gradients stay on their process. In bfloat16 half of the traffic, but sums of many lose what is small. The
            sum is kept in float32 either way.
        frozen: weights that do not train are ``sharded`` like the others, or ``replicated``: whole on every process,
            never gathered, in ``compute_dtype``. They then take their whole size on every device.
        prefetch: units whose weights are asked for while an earlier one runs. 0 leaves it to PyTorch, which asks for
            the next one's once the process has queued the work of this one; with n > 0 the next n are asked for before
            that, at the memory of n more whole units.
    """

    compute_dtype: torch.dtype | None = None
    reduce_dtype: torch.dtype = torch.float32
    frozen: FrozenWeights = "sharded"
    prefetch: int = 0


DEFAULT_SHARDING = Sharding()


def shard_units(units: Iterable[nn.Module], mesh: DeviceMesh, device: torch.device, how: Sharding) -> None:
    """Move modules to ``device`` and shard each as a unit, in the given order: inner ones before what holds them.

    No more than one unit is ever whole on the device, but for frozen weights that are replicated. All ranks take rank
    0's values. Trainable weights are kept in float32, frozen ones in the precision they have.

    Args:
        units: modules with their weights loaded, not yet sharded, whose ``forward`` uses all of their own weights.
        mesh: the processes that share the weights; of two dimensions, groups of processes (the first dimension) that
            each share a copy of their own (the second one), whose gradients are averaged ("HSDP").
        device: where this process computes.
        how: precisions, and what becomes of frozen weights.
    """
    # Inputs are not cast: timesteps on the 0-1000 scale would be rounded to multiples of four.
    policy = MixedPrecisionPolicy(how.compute_dtype, how.reduce_dtype, cast_forward_inputs=False)
    for unit in units:
        _place(unit, mesh, device)
        kept = {p for p in _own_parameters(unit) if how.frozen == "replicated" and not p.requires_grad}
        for parameter in kept:
            # as it would be gathered
            parameter.data = parameter.data.to(how.compute_dtype or parameter.dtype)
        fully_shard(unit, mesh=mesh, mp_policy=policy, ignored_params=kept)


def gather_ahead(order: Sequence[nn.Module], units_ahead: int) -> None:
    """Make sharded units ask for the weights of those that run after them (`Sharding.prefetch`).

    Args:
        order: units in the order in which every forward pass runs them. One that is passed over now and then must not
            be among them: it would keep weights of before a step.
        units_ahead: how many are asked for; 0 changes nothing.
    """
    if not units_ahead:
        return
    units = [unit for unit in order if isinstance(unit, FSDPModule)]
    # what lies before the first unit that trains has no backward pass
    trains = [any(p.requires_grad for p in unit.parameters()) for unit in units]
    first = trains.index(True) if True in trains else len(units)
    for i, unit in enumerate(units):
        unit.set_modules_to_forward_prefetch([*units[i + 1 : i + 1 + units_ahead]])
        unit.set_modules_to_backward_prefetch([*reversed(units[max(i - units_ahead, first) : i])])


@contextmanager
def kept_gathered(root: nn.Module) -> Iterator[None]:
    """Inside the block weights that were gathered once stay so, and are given up at its end.

    Many forward passes with the same weights, such as the denoising steps of a sampling, then gather each unit once
    instead of once each. Every process meanwhile holds all weights that run, in the precision it computes in. Every
    process has to enter and leave with the others; a module that is not sharded is left as it is.

    Args:
        root: what was sharded last, and holds all other units.
    """
    units = [part for part in root.modules() if isinstance(part, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for unit in units:
            # as `fully_shard` has it: the root's weights are needed first in the backward pass
            unit.set_reshard_after_forward(unit is not root, recurse=False)
        reshard(root)


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
    """Move what no unit inside has to ``device`` and give it rank 0's values."""
    parameters = list(_own_parameters(unit))
    for parameter in parameters:
        # Small steps of an optimizer are lost in bfloat16.
        dtype = torch.float32 if parameter.requires_grad else parameter.dtype
        # through ``.data``, so that the parameter stays the same object in its module
        parameter.data = parameter.data.to(device, dtype)
    for part in unit.modules():
        for name, buffer in part.named_buffers(recurse=False):
            # registered again under its name, which keeps whether it is saved
            part.register_buffer(name, buffer.to(device), persistent=name not in part._non_persistent_buffers_set)
    # rank 0's, for fresh layers too: each process has drawn its own
    for tensor in chain(parameters, unit.buffers()):
        # within the groups that share a copy, then between them
        for dimension in reversed(range(mesh.ndim)):
            dist.broadcast(tensor.detach(), group=mesh.get_group(dimension), group_src=0)


def _own_parameters(unit: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters that belong to no unit inside."""
    yield from unit.parameters(recurse=False)
    for child in unit.children():
        if not isinstance(child, FSDPModule):
            yield from _own_parameters(child)
