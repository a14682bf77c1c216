"""Sharded Muon on one process, where all rows are here; two processes are in `test_optimizer_ranks`."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.optim import Muon

from components.errors import InputError
from components.optimization import MuonAdamW

SHAPES = ((12, 8), (8, 12), (5, 5))


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def matrices() -> list[Tensor]:
    return [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate(SHAPES)]


def give_gradients(parameters: list[nn.Parameter], mesh: DeviceMesh | None, placement: object, step: int) -> None:
    for i, parameter in enumerate(parameters):
        gradient = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(10 * step + i))
        parameter.grad = gradient if mesh is None else distribute_tensor(gradient, mesh, [placement])


@pytest.mark.parametrize("placement", [Shard(0), Replicate()])
@pytest.mark.parametrize("adjust_lr", ["match_rms_adamw", "original"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_it_is_pytorchs_step(mesh: DeviceMesh, placement: object, adjust_lr: str, nesterov: bool):
    sharded = [nn.Parameter(distribute_tensor(matrix, mesh, [placement])) for matrix in matrices()]
    plain = [nn.Parameter(matrix) for matrix in matrices()]
    settings = {"lr": 0.01, "weight_decay": 0.1, "nesterov": nesterov}
    mine = MuonAdamW(sharded, **settings, adjust_lr=adjust_lr, ns_dtype="bfloat16")
    theirs = Muon(plain, **settings, adjust_lr_fn=adjust_lr)
    for step in range(3):
        for parameters, where, optimizer in ((sharded, mesh, mine), (plain, None, theirs)):
            give_gradients(parameters, where, placement, step)
            optimizer.step()
        if step == 1:  # and goes on from its state
            mine.load_state_dict(copy.deepcopy(mine.state_dict()))
    for one, other in zip(sharded, plain, strict=True):
        torch.testing.assert_close(one.full_tensor(), other.detach(), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(
            mine.state[one]["momentum_buffer"].full_tensor(), theirs.state[other]["momentum_buffer"]
        )


def test_columns_are_refused(mesh: DeviceMesh):
    sharded = [nn.Parameter(distribute_tensor(matrix, mesh, [Shard(1)])) for matrix in matrices()]
    give_gradients(sharded, mesh, Shard(1), 0)
    with pytest.raises(InputError, match=r"sharded by their rows.*use torch.optim.AdamW"):
        MuonAdamW(sharded).step()
