"""FLOPs of a training step by its shapes: a copy of the model on the meta device runs it without computing anything.

FLOPs are 2 per multiply-add of matrix products, convolutions and attention (masked pairs included, as kernels with a
mask compute them), each once: what activation checkpoints and fused attention compute a second time in the backward
pass does not count. That is what MFU is of (PaLM, arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class StepCost:
    """What a training step of one process takes.

    Attributes:
        flops: of the transformer, forward and backward.
        tokens: that it runs over, all modalities, history and references together; text does not count.
    """

    flops: float
    tokens: float


@runtime_checkable
class CountsSteps(Protocol):
    """A LightningModule that knows what its training steps cost."""

    def training_cost(self, batch: Any) -> StepCost | None:
        """Cost of a step on a batch of these shapes, in the mean where it also depends on what is drawn.

        Nothing is computed on the batch. None where it cannot be counted.
        """


def flops_of(run: Callable[[], object]) -> int:
    """FLOPs of what ``run`` does; on the meta device attention counts as the two products it is made of."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def backward(outputs: Sequence[Tensor | None]) -> None:
    """The backward pass of a loss over all outputs; only for counting."""
    loss = torch.stack([output.float().square().mean() for output in outputs if output is not None]).mean()
    torch.autograd.backward(loss)


def meta_twin(module: M) -> M:
    """The same module without values: every parameter and buffer is on the meta device; it trains what trains there.

    Args:
        module: not sharded.
    """
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = torch.empty_like(tensor, device="meta", requires_grad=False)
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(module, memo)


@contextmanager
def activations_kept(module: nn.Module) -> Iterator[None]:
    """Runs parts that have a switch ``checkpoint_activations`` without it: nothing is computed twice."""
    parts = {part: part.checkpoint_activations for part in module.modules() if hasattr(part, "checkpoint_activations")}
    for part in parts:
        part.checkpoint_activations = False  # type: ignore[assignment]  # torch knows tensors and modules alone
    try:
        yield
    finally:
        for part, policy in parts.items():
            part.checkpoint_activations = policy
