"""Whatever the mesh and the options, several processes take the step that one takes."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from components.backbones.sharding import Sharding, kept_gathered, local, whole
from components.backbones.syncphony.model import SyncphonyDiT
from tests.collectives import Collectives
from tests.components.backbones.sharded_ranks import CPU, inputs, loss_of, mean_gradients
from tests.ranks import joined, run_ranks
from tests.tiny_syncphony import randomise, tiny_dit

pytestmark = pytest.mark.gate

TOLERANCE = 2e-7
RATE = 1e-2
MESHES = {2: [(2,), (2, 1)], 4: [(4,), (2, 2)]}
OPTIONS = [Sharding(), Sharding(frozen="replicated"), Sharding(prefetch=2)]


def model() -> SyncphonyDiT:
    return tiny_dit("miniflux", 2)


def stepped(dit: SyncphonyDiT) -> dict[str, Tensor]:
    """All weights after a step of plain descent, which hides no gradient."""
    torch.optim.SGD([p for p in dit.parameters() if p.requires_grad], RATE).step()
    return {name: whole(p.detach()).clone() for name, p in dit.named_parameters()}


def agree(
    mesh_shape: tuple[int, ...], how: Sharding, rank: int, losses: list[Tensor], wanted: dict[str, Tensor]
) -> None:
    dit, names = model(), ("replicate", "shard")[-len(mesh_shape) :]
    if rank:
        randomise(dit, 100 + rank)  # rank 0's values must win, whatever the mesh
    dit.shard(init_device_mesh("cpu", mesh_shape, mesh_dim_names=names), CPU, how)
    for parameter in dit.parameters():
        if parameter.requires_grad or how.frozen == "sharded":
            assert (
                isinstance(parameter, DTensor) and parameter.shape[0] >= mesh_shape[-1] * local(parameter).shape[0] - 4
            )
        else:
            assert not isinstance(parameter, DTensor)
    loss = loss_of(dit, rank)
    torch.testing.assert_close(loss, losses[rank], atol=TOLERANCE, rtol=1e-6)
    loss.backward()
    for name, value in stepped(dit).items():
        torch.testing.assert_close(value, wanted[name], atol=TOLERANCE, rtol=0, msg=f"{mesh_shape} {how} {name}")


def every_layout(rank: int, world: int, losses: list[Tensor], wanted: dict[str, Tensor]) -> None:
    joined()
    for mesh_shape in MESHES[world]:
        for how in OPTIONS:
            agree(mesh_shape, how, rank, losses, wanted)


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_every_mesh_and_option_takes_the_step_of_one_process(world: int):
    alone = model()
    losses, gradients = mean_gradients(alone, world)
    assert gradients
    run_ranks(world, every_layout, world, [loss.detach() for loss in losses], stepped(alone))


def half_reduced(rank: int, gradients: dict[str, Tensor]) -> None:
    joined()
    dit = model()
    dit.shard(init_device_mesh("cpu", (2,)), CPU, Sharding(reduce_dtype=torch.bfloat16))
    loss_of(dit, rank).backward()
    rounded = 0
    for name, parameter in dit.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.dtype == torch.float32
            found, exact = whole(parameter.grad), gradients[name]
            assert (found - exact).norm() <= 2**-7 * exact.norm() + 1e-9, name
            rounded += not torch.equal(found, exact)
    assert rounded > 10


def test_gradients_summed_in_bfloat16_are_near_and_kept_in_float32():
    _, gradients = mean_gradients(model(), 2)
    run_ranks(2, half_reduced, gradients)


def gathers_when_blocks_begin(dit: SyncphonyDiT, rank: int) -> list[int]:
    """How many gathers were asked for when each block's own computation begins."""
    seen: list[int] = []

    def hooked(blocks: nn.ModuleList) -> Iterator[torch.utils.hooks.RemovableHandle]:
        for block in blocks:
            yield next(block.children()).register_forward_pre_hook(lambda *_: seen.append(counted.gathers))

    given = inputs(dit, rank)  # gathers the root's weights, which stay
    with torch.no_grad(), Collectives() as counted:
        handles = list(hooked(dit.backbone.blocks))
        dit(*given, off_sync=True)
    for handle in handles:
        handle.remove()
    return seen


def asked_ahead(rank: int) -> None:
    joined()
    mesh, outputs = init_device_mesh("cpu", (2,)), []
    for ahead in (0, 2):
        dit = model()
        dit.shard(mesh, CPU, Sharding(prefetch=ahead))
        last = len(dit.backbone.blocks)
        assert gathers_when_blocks_begin(dit, rank) == [min(1 + i + ahead, last) for i in range(last)]
        with torch.no_grad():
            outputs.append(dit(*inputs(dit, rank)))
    assert all(torch.equal(plain, prefetched) for plain, prefetched in zip(*outputs, strict=True))


def test_weights_of_the_next_blocks_are_asked_for_before_a_block_computes():
    run_ranks(2, asked_ahead)


def kept(rank: int) -> None:
    joined()
    dit = model()
    dit.shard(init_device_mesh("cpu", (2,)), CPU)
    given = inputs(dit, rank)
    with torch.no_grad():
        dit(*given)
        with Collectives() as anew:
            first, second = dit(*given), dit(*given)
        with Collectives() as once, kept_gathered(dit):
            third, fourth = dit(*given), dit(*given)
        units = sum(isinstance(part, FSDPModule) for part in dit.modules()) - 1  # the root's weights stay anyway
        assert anew.gathers == 2 * units and once.gathers == units > 3
        assert all(isinstance(p, DTensor) for p in dit.parameters())
        for outputs in (second, third, fourth):
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(outputs, first, strict=True))
        for parameter in dit.parameters():
            local(parameter).mul_(1.05)
        assert not torch.equal(dit(*given)[0], first[0])  # new values are gathered anew
    loss_of(dit, rank).backward()
    assert all(isinstance(p, DTensor) for p in dit.parameters())


def test_weights_kept_gathered_are_gathered_once_and_given_up():
    run_ranks(2, kept)
