"""What the strategy refuses before any process is connected."""

import lightning as L
import pytest
import torch

from components.errors import InputError
from lightning_modules.strategies.fsdp2 import FSDP2Strategy
from tests.lightning_modules.tiny_module import tiny_module


def strategy(context_parallel_size: int, module: L.LightningModule | None = None) -> FSDP2Strategy:
    """Of four processes."""
    made = FSDP2Strategy(context_parallel_size=context_parallel_size)
    made.parallel_devices = [torch.device("cpu")] * 4
    made._lightning_module = tiny_module() if module is None else module
    return made


@pytest.mark.parametrize("size", [0, -2])
def test_a_group_has_at_least_one_process(size: int):
    with pytest.raises(InputError, match=f"context_parallel_size is {size}: give at least 1"):
        strategy(size)


def test_processes_that_cannot_be_grouped_are_refused():
    with pytest.raises(InputError, match="context_parallel_size is 3, but 4 processes cannot be grouped"):
        strategy(3).setup_environment()


def test_a_module_that_cannot_share_tokens_is_refused():
    with pytest.raises(InputError, match="context_parallel_size is 2, but LightningModule cannot share the tokens"):
        strategy(2, L.LightningModule()).setup_environment()
