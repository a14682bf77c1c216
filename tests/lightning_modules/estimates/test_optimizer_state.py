"""Bytes of optimizers, counted on the meta device as they would be on a GPU."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from components.optimization import MuonAdamW
from lightning_modules.estimates.optimizer_state import optimizer_bytes
from tests.lightning_modules.tiny_module import tiny_module

WIDTH, LAYERS = 64, 8


def counted(optimizer: Callable[..., torch.optim.Optimizer], width: int = WIDTH) -> tuple[float, float]:
    """Bytes of state and of temporary tensors for each number that trains."""
    module = tiny_module(optimizer=optimizer)
    module.requires_grad_(False)
    module.more = nn.ModuleList(nn.Linear(width, width, bias=False, device="meta") for _ in range(LAYERS))
    found, numbers = optimizer_bytes(module), LAYERS * width**2
    return found.state / numbers, found.stepping / numbers


@pytest.mark.parametrize(
    ("optimizer", "state", "stepping"),
    [
        (AdamW, 8, 0),  # one kernel
        (partial(AdamW, foreach=True), 8, 4),  # a list as large as what trains
        (partial(AdamW, fused=False), 8, 3 * 4 / LAYERS),  # weight by weight
        (partial(SGD, lr=0.1, momentum=0.9), 4, 0),
        (MuonAdamW, 4, 3 * 4),  # small matrices of one shape together
    ],
)
def test_state_and_temporary_tensors(optimizer: Any, state: float, stepping: float):
    held, made = counted(optimizer)
    assert held == pytest.approx(state) and made == pytest.approx(stepping, abs=0.3)


def test_muon_takes_large_matrices_one_by_one():
    held, made = counted(MuonAdamW, width=4096)
    assert held == pytest.approx(4) and made == pytest.approx(14 / LAYERS)


@pytest.mark.parametrize(("kind", "state"), [("AdamW8bit", 2 + 8 / 256), ("AdamW4bit", 1 + 8 / 128)])
def test_codes_and_scales_are_counted(kind: str, state: float):
    library = pytest.importorskip("torchao.optim", reason="torchao is not installed: pip install 'avsync[optim]'")
    held, _ = counted(getattr(library, kind))
    tables = 2 * (256 if kind == "AdamW8bit" else 16) * 4 / WIDTH**2  # of either moment, in each matrix
    assert held == pytest.approx(state + tables, rel=0.02)
