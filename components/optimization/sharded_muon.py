"""Muon over matrices whose rows are dealt out over processes (FSDP2): each process orthogonalises whole ones in turn.

The iteration needs a matrix as a whole. Of as many matrices as there are processes each gets one, all its rows, and
sends every process its rows of the step: what is computed is what one process computes, and no matrix is computed
twice. A matrix goes over the network once there and once back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor, Shard

from components.errors import InputError
from components.optimization.muon import momentum, orthogonalised, step_size


def step_sharded(group: Mapping[str, Any], state: MutableMapping[Tensor, Any]) -> None:
    """One step of all sharded matrices of a parameter group; every process has to call it.

    Args:
        group: settings of `torch.optim.Muon`, and ``params``, all sharded alike.
        state: by parameter; holds ``momentum_buffer``, sharded like the parameter.

    Raises:
        InputError: if matrices are sharded by anything but their rows.
    """
    lr, decay = float(group["lr"]), group["weight_decay"]
    held = [parameter for parameter in group["params"] if parameter.grad is not None]
    count = _size(held[0]) if held else 1
    for first in range(0, len(held), count):
        some = held[first : first + count]
        updates = [momentum(parameter, state[parameter], group) for parameter in some]
        for parameter, step in zip(some, _all_orthogonalised(some, updates, group), strict=True):
            mine = parameter.to_local()
            mine.mul_(1 - lr * decay).add_(step, alpha=-step_size(parameter.shape, group))


def _all_orthogonalised(
    parameters: Sequence[DTensor], updates: Sequence[Tensor], group: Mapping[str, Any]
) -> Iterator[Tensor]:
    """This process's rows of each matrix, orthogonalised; there are no more of them than processes."""
    processes = _processes(parameters[0])
    if processes is None:  # whole on every process
        yield from (orthogonalised(update[None], group)[0] for update in updates)
        return
    count, rank = dist.get_world_size(processes), dist.get_rank(processes)
    # numbers of each matrix that each process holds
    held = [[_rows(p.shape[0], count, other) * p.shape[1] for other in range(count)] for p in parameters]
    mine = held[rank] if rank < len(held) else [0] * count
    theirs = [sizes[rank] for sizes in held] + [0] * (count - len(held))
    gathered = _exchanged(torch.cat([update.flatten() for update in updates]), theirs, mine, processes)
    if rank < len(held):
        whole = gathered.view(1, *parameters[rank].shape)
        gathered = orthogonalised(whole, group).to(gathered.dtype).flatten()
    steps = _exchanged(gathered, mine, theirs, processes).split(theirs)
    yield from (step.view_as(update) for step, update in zip(steps, updates, strict=False))


def _exchanged(values: Tensor, sent: list[int], received: list[int], processes: ProcessGroup) -> Tensor:
    into = values.new_empty(sum(received))
    dist.all_to_all_single(into, values.contiguous(), received, sent, group=processes)
    return into


def _sharded_dim(parameter: DTensor) -> int | None:
    """The dimension of the mesh over which rows are dealt out; None where every process has all."""
    dims = [i for i, place in enumerate(parameter.placements) if isinstance(place, Shard)]
    rows = [i for i in dims if parameter.placements[i].is_shard(0)]
    if len(rows) != len(dims) or len(rows) > 1:
        raise InputError(
            f"MuonAdamW steps matrices that are sharded by their rows, but one is laid out as {parameter.placements}; "
            "use torch.optim.AdamW with this strategy"
        )
    return rows[0] if rows else None


def _processes(parameter: DTensor) -> ProcessGroup | None:
    dim = _sharded_dim(parameter)
    return None if dim is None else parameter.device_mesh.get_group(dim)


def _size(parameter: DTensor) -> int:
    dim = _sharded_dim(parameter)
    return 1 if dim is None else int(parameter.device_mesh.size(dim))


def _rows(rows: int, count: int, rank: int) -> int:
    """As DTensor deals them: the last processes may get fewer, or none."""
    each = -(-rows // count)
    return max(min(each, rows - each * rank), 0)
