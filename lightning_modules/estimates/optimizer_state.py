"""Bytes of an optimizer's state, found by one step on the meta device: whatever optimizer the experiment names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_modules.base import GenerativeModule, parameter_groups


def optimizer_bytes(module: GenerativeModule[Any]) -> int:
    """What the optimizer keeps beside weights and gradients.

    Args:
        module: on the meta device, what trains in float32.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        return 0
    optimizer = module.optimizer(parameter_groups(trainable))
    for parameter in trainable:
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    for parameter in trainable:
        parameter.grad = None
    states = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.numel() * value.element_size() for value in states if isinstance(value, Tensor) and value.ndim)
