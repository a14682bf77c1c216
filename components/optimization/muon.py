"""What Muon makes of a matrix: momentum, and from it a step whose directions are all of one size."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def momentum(parameter: Tensor, kept: MutableMapping[str, Any], group: Mapping[str, Any]) -> Tensor:
    """What is to be orthogonalised, of a sharded matrix the rows that are here.

    Args:
        parameter: a matrix with a gradient.
        kept: its state; what was before is ``momentum_buffer``, sharded like the gradient.
        group: settings of the optimizer.
    """
    gradient = parameter.grad
    assert gradient is not None
    if "momentum_buffer" not in kept:
        kept["momentum_buffer"] = torch.zeros_like(gradient)
    buffer: Tensor = kept["momentum_buffer"]
    if isinstance(gradient, DTensor) and isinstance(buffer, DTensor):
        gradient, buffer = gradient.to_local(), buffer.to_local()
    buffer.lerp_(gradient, 1 - group["momentum"])
    return gradient.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer


def orthogonalised(updates: Tensor, group: Mapping[str, Any]) -> Tensor:
    """The nearest orthogonal matrices, roughly: all singular values of whole matrices brought near 1.

    The same iteration as `torch.optim.Muon`'s, which is always in bfloat16: a CPU without instructions for that
    multiplies it many times slower than float32. Source: Keller Jordan (kellerjordan.github.io/posts/muon).

    Args:
        updates: ``[N, rows, columns]``; each matrix is orthogonalised for itself, all of them at once.
        group: ``ns_coefficients``, ``ns_steps``, ``eps`` and ``ns_dtype``, the precision of the iteration (None:
            float32 on a CPU, bfloat16 elsewhere).

    Returns:
        ``[N, rows, columns]`` in the precision of the iteration.
    """
    named = group.get("ns_dtype")  # states written before it existed have none
    dtype: torch.dtype = getattr(torch, named or ("float32" if updates.device.type == "cpu" else "bfloat16"))
    is_tall = updates.shape[1] > updates.shape[2]
    x = updates.to(dtype)
    x = x.mT if is_tall else x
    x = x / x.flatten(1).norm(dim=1).clamp(min=group["eps"])[:, None, None]
    a, b, c = group["ns_coefficients"]
    for _ in range(group["ns_steps"]):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def step_size(shape: torch.Size, group: Mapping[str, Any]) -> float:
    """How far a matrix of this shape goes along its orthogonalised momentum.

    Source: ``match_rms_adamw`` is 0.2 sqrt(max(rows, columns)) of Moonshot (arXiv 2502.16982, section 2.2),
    ``original`` Jordan's.
    """
    rows, columns = shape
    if group["adjust_lr_fn"] == "match_rms_adamw":
        return float(group["lr"]) * 0.2 * math.sqrt(max(rows, columns))
    return float(group["lr"]) * math.sqrt(max(1, rows / columns))
