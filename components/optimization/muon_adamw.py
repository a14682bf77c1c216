"""Muon for matrices, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Muon, Optimizer

from components.optimization.sharded_muon import step_sharded


class MuonAdamW(Optimizer):
    """Steps matrices by Muon (orthogonalised momentum) and norms, biases, vectors and convolutions by AdamW.

    One rate and one weight decay hold for both: by default Muon's updates are scaled to the size that AdamW's have, so
    that a rate found for AdamW serves, and schedules see one optimizer. Groups that are given are split; what they set
    themselves (such as no weight decay) both halves keep. The state is that of the two optimizers, parameter by
    parameter, and sharded as the parameters are (`step_sharded`).

    Source: Muon is Keller Jordan's (kellerjordan.github.io/posts/muon), the scaling by 0.2 sqrt(max(rows, columns))
    Moonshot's (arXiv 2502.16982, section 2.2); both are PyTorch's own implementation.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        weight_decay: decoupled, of both.
        momentum: Muon's.
        nesterov: Muon's.
        ns_steps: Newton-Schulz iterations of Muon.
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
        halves = [(of_muon.defaults, _is_matrix), (of_adamw.defaults, lambda parameter: not _is_matrix(parameter))]
        split: list[dict[str, Any]] = []
        for group in groups:
            for defaults, belongs in halves:
                mine = [parameter for parameter in group["params"] if belongs(parameter)]
                if mine:
                    by_muon = defaults is of_muon.defaults
                    split.append({**defaults, **group, "params": mine, "by_muon": by_muon})
        # together, for schedules that look for momentum or betas, and for groups that are added later
        super().__init__(split, {**of_muon.defaults, **of_adamw.defaults, "by_muon": False})
        self._halves: list[tuple[Optimizer, bool]] = [(of_muon, True), (of_adamw, False)]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer, by_muon in self._halves:
            # anew each time: loading a state puts others in their place
            groups = [group for group in self.param_groups if group["by_muon"] is by_muon]
            for group in [group for group in groups if by_muon and isinstance(group["params"][0], DTensor)]:
                step_sharded(group, self.state)
                groups.remove(group)
            optimizer.param_groups = groups
            optimizer.state = self.state
            optimizer.step()
        return loss


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim == 2
