"""PyTorch's own optimizers as one kernel on a GPU, where the configuration leaves the choice open."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from components.optimization.muon_adamw import MuonAdamW

_HOW = ("foreach", "fused")
_BETTER_FUSED = (Adam, AdamW, MuonAdamW)


def prefer_fused(optimizer: Optimizer, devices: Collection[str] = ("cuda",)) -> None:
    """Sets ``fused`` for Adam and AdamW where neither ``fused`` nor ``foreach`` was chosen and all weights fit.

    One kernel reads and writes each number once, and makes no lists of temporary tensors. Gradients may be clipped in
    any precision: the loss scale of ``16-mixed`` is taken out before that, which PyTorch would leave to a fused kernel.
    A state that is loaded is stepped as this run steps, however the run went that has written it.

    Args:
        optimizer: of any class; nothing of others than PyTorch's and `MuonAdamW` is touched.
        devices: where it is done; on a CPU results would change in their last digits.
    """
    # exactly these: a subclass may step otherwise
    if type(optimizer) not in (*_BETTER_FUSED, SGD, Adagrad):
        return
    for group in optimizer.param_groups if type(optimizer) in _BETTER_FUSED else ():
        fits = all(p.device.type in devices and p.is_floating_point() for p in group["params"])
        if fits and _is_open(group):
            group["fused"] = True
    # read by GradScaler, and by Lightning, which refuses to clip what stays scaled until the kernel runs
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    optimizer.register_load_state_dict_pre_hook(_stepped_as_here)


def _is_open(group: dict[str, Any]) -> bool:
    settled = any(group[name] is not None for name in _HOW) or group["differentiable"]
    return not settled and not group.get("by_muon", False)


def _stepped_as_here(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The state with this run's choice: PyTorch puts counts of steps where the groups in it say."""
    here = [{name: group[name] for name in _HOW if name in group} for group in optimizer.param_groups]
    saved = state["param_groups"]
    if len(here) != len(saved):
        return state  # which PyTorch refuses
    return {**state, "param_groups": [{**group, **how} for group, how in zip(saved, here, strict=True)]}
