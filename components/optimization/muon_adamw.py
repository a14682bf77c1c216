"""Muon for matrices, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Muon, Optimizer

from components.optimization.muon import momentum, orthogonalised, step_size
from components.optimization.sharded_muon import step_sharded

# numbers in the small matrices that are orthogonalised together: one by one they keep neither a CPU nor a GPU busy
_TOGETHER = 2**23


class MuonAdamW(Optimizer):
    """Steps matrices by Muon (orthogonalised momentum) and norms, biases, vectors and convolutions by AdamW.

    One rate and one weight decay hold for both: by default Muon's updates are scaled to the size that AdamW's have, so
    that a rate found for AdamW serves, and schedules see one optimizer. Groups that are given are split; what they set
    themselves (such as no weight decay) both halves keep. The state is that of the two optimizers, parameter by
    parameter, and sharded as the parameters are (`step_sharded`).

    AdamW is PyTorch's own; for Muon's step see `orthogonalised` and `step_size`.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        weight_decay: decoupled, of both.
        momentum: Muon's.
        nesterov: Muon's.
        ns_steps: Newton-Schulz iterations of Muon.
        ns_dtype: their precision; None: bfloat16, and float32 on a CPU.
        adjust_lr: how Muon's rate follows a matrix's shape: ``match_rms_adamw`` or Jordan's ``original``, which wants a
            rate of its own size.
        betas: AdamW's.
        eps: AdamW's.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        ns_dtype: Literal["float32", "bfloat16"] | None = None,
        adjust_lr: Literal["match_rms_adamw", "original"] = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        given = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        placeholder = [torch.zeros(1, 1)]
        # the two know best what a group of theirs holds besides
        of_muon = Muon(placeholder, lr, weight_decay, momentum, nesterov, ns_steps=ns_steps, adjust_lr_fn=adjust_lr)
        of_adamw = AdamW(placeholder, lr, (betas[0], betas[1]), eps, weight_decay)
        for_muon = {**of_muon.defaults, "ns_dtype": ns_dtype}
        halves = [(for_muon, _is_matrix), (of_adamw.defaults, lambda parameter: not _is_matrix(parameter))]
        split: list[dict[str, Any]] = []
        for group in groups:
            for defaults, belongs in halves:
                mine = [parameter for parameter in group["params"] if belongs(parameter)]
                if mine:
                    by_muon = defaults is for_muon
                    split.append({**defaults, **group, "params": mine, "by_muon": by_muon})
        # together, for schedules that look for momentum or betas, and for groups that are added later
        super().__init__(split, {**for_muon, **of_adamw.defaults, "by_muon": False})
        self._adamw = of_adamw

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if not group["by_muon"]:
                continue
            if isinstance(group["params"][0], DTensor):
                step_sharded(group, self.state)
            else:
                _step_whole(group, self.state)
        # anew each time: loading a state puts others in their place
        self._adamw.param_groups = [group for group in self.param_groups if not group["by_muon"]]
        self._adamw.state = self.state
        self._adamw.step()
        return loss


def _step_whole(group: Mapping[str, Any], state: MutableMapping[Tensor, Any]) -> None:
    """One step of matrices that are whole on this process."""
    for some in _alike([parameter for parameter in group["params"] if parameter.grad is not None]):
        together = torch.stack([momentum(parameter, state[parameter], group) for parameter in some])
        for parameter, update in zip(some, orthogonalised(together, group), strict=True):
            parameter.mul_(1 - float(group["lr"]) * group["weight_decay"])
            parameter.add_(update, alpha=-step_size(parameter.shape, group))


def _alike(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Matrices to be orthogonalised together: of one shape and precision, few enough that their copies are small."""
    kinds: dict[tuple[torch.Size, torch.dtype, torch.device], list[Tensor]] = {}
    for parameter in parameters:
        kinds.setdefault((parameter.shape, parameter.dtype, parameter.device), []).append(parameter)
    for (shape, _, _), alike in kinds.items():
        count = max(_TOGETHER // max(shape.numel(), 1), 1)
        yield from (alike[first : first + count] for first in range(0, len(alike), count))


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim == 2
