"""Sharded over processes, and with activations computed twice, the transformer is the same model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.components.backbones.sharded_ranks import inputs, loss_of
from tests.tiny_syncphony import VARIANTS, tiny_dit

ROOT = Path(__file__).resolve().parents[3]


def test_two_processes_hold_half_the_model_each_and_train_all_of_it(tmp_path: Path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.components.backbones.sharded_ranks", str(rank), "2", str(tmp_path / "store")],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=300)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(text[-2000:] for text in said)


@pytest.mark.parametrize("variant", VARIANTS)
def test_checkpointed_activations_change_memory_and_nothing_else(variant: str):
    kept: dict[bool, int] = {}
    gradients: dict[bool, dict[str, torch.Tensor]] = {}
    for checkpointed in (False, True):
        dit = tiny_dit(variant, 1, checkpoint_activations=checkpointed)
        saved: list[int] = []

        def pack(tensor: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = loss_of(dit, 0)
        kept[checkpointed] = sum(saved)
        loss.backward()
        gradients[checkpointed] = {name: p.grad for name, p in dit.named_parameters() if p.grad is not None}
    assert gradients[True].keys() == gradients[False].keys()
    assert all(torch.equal(grad, gradients[False][name]) for name, grad in gradients[True].items())
    assert kept[True] < 0.5 * kept[False]
    with torch.no_grad():
        assert torch.equal(loss_of(dit, 0), loss)
        assert len(dit(*inputs(dit, 0))) == 4
