"""Bytes that an optimizer takes, found by steps on the meta device: whatever optimizer the experiment names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from components.counting.live_memory import with_peak_bytes
from components.optimization import prefer_fused, state_bytes
from lightning_modules.base import GenerativeModule, parameter_groups


@dataclass(frozen=True)
class OptimizerBytes:
    """Of all that trains, on one process.

    Attributes:
        state: kept beside weights and gradients.
        stepping: most temporary tensors that a step holds at a time.
    """

    state: int
    stepping: int


def optimizer_bytes(module: GenerativeModule[Any]) -> OptimizerBytes:
    """What the optimizer takes beside weights and gradients when it runs on a GPU.

    Args:
        module: on the meta device, what trains in float32.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        return OptimizerBytes(0, 0)
    optimizer = module.optimizer(parameter_groups(trainable))
    for parameter in trainable:
        parameter.grad = torch.empty_like(parameter)
    prefer_fused(optimizer, devices=("meta",))
    fused = [group for group in optimizer.param_groups if group.get("fused")]
    _as_on_a_gpu(optimizer)
    # nothing is to be compiled for shapes alone
    with torch.compiler.set_stance("force_eager"):
        optimizer.step()
        for group in fused:
            # one kernel, which makes nothing: it is not there for the meta device
            for parameter in group["params"]:
                parameter.grad = None
        stepping = with_peak_bytes(optimizer.step, "meta")[1]
    for parameter in trainable:
        parameter.grad = None
    held = (value for kept in optimizer.state.values() for value in kept.values())
    return OptimizerBytes(sum(map(state_bytes, held)), stepping)


def _as_on_a_gpu(optimizer: Optimizer) -> None:
    """Lists of tensors where PyTorch would choose them on a GPU; one kernel steps as lists do, for the state."""
    for group in optimizer.param_groups:
        if group.get("fused"):
            group["fused"] = False
        elif "foreach" in group and group["foreach"] is None and group.get("fused") is None:
            group["foreach"] = True
