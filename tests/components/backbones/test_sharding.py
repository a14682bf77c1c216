"""Sharded over processes, and with activations computed twice, the transformer is the same model."""

from pathlib import Path

import pytest
import torch

from tests.components.backbones.sharded_ranks import inputs, loss_of, main
from tests.processes import run_ranks, told
from tests.tiny_syncphony import VARIANTS, tiny_dit

pytestmark = pytest.mark.gate


def test_two_processes_hold_half_the_model_each_and_train_all_of_it(tmp_path: Path):
    ended = run_ranks(main, (tmp_path / "store",), 2)
    assert [one.status for one in ended] == [0, 0], told(ended)


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
