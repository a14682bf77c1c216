"""Shards the tiny transformer over gloo processes, and holds what it gives against the whole one."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from components.backbones.pyramid_flow.column import Column
from components.backbones.sharding import Sharding, is_sharded, local, reshard, whole
from components.backbones.syncphony.audio_cross_attention import AudioContext
from components.backbones.syncphony.model import SyncphonyDiT
from tests.tiny_syncphony import (
    audio_features,
    column_sounds,
    latents,
    model_columns,
    randomise,
    text_features,
    tiny_dit,
    training_columns,
)

CPU = torch.device("cpu")


def inputs(dit: SyncphonyDiT, rank: int) -> tuple[list[Column], list[AudioContext]]:
    """Stages 0, 1, 1, 2; every rank has clips of its own."""
    clips = training_columns(latents(4, seed=rank), seed=rank)
    sounds = column_sounds(clips, dit, audio_features(4, 49 / 24, seed=rank))
    return model_columns(clips, text_features(4, seed=rank)), sounds


def loss_of(dit: SyncphonyDiT, rank: int, off_sync: bool = False) -> Tensor:
    outputs = dit(*inputs(dit, rank), off_sync=off_sync)
    return torch.stack([output.float().square().mean() for output in outputs]).mean()


def mean_gradients(dit: SyncphonyDiT, world_size: int, **how: bool) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Every rank's loss, and the mean of the gradients, found by one process that holds everything."""
    dit.zero_grad()
    losses = [loss_of(dit, rank, **how) for rank in range(world_size)]
    torch.stack(losses).mean().backward()
    return losses, {name: p.grad.clone() for name, p in dit.named_parameters() if p.grad is not None}


def agree(found: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((found - wanted).abs().max() <= tolerance * wanted.abs().max() + 1e-12)


def compare(dit: SyncphonyDiT, wanted: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    found = {name: whole(p.grad) for name, p in dit.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys(), found.keys() ^ wanted.keys()
    for name, grad in wanted.items():
        assert agree(found[name], grad, tolerance), (name, (found[name] - grad).abs().max(), grad.abs().max())


def check(variant: str, settings: dict[str, object], rank: int, world_size: int) -> None:
    mesh = init_device_mesh("cpu", (world_size,))
    reference = tiny_dit(variant, 1, **settings)
    dit = tiny_dit(variant, 1, **settings)
    if rank:
        randomise(dit, 100 + rank)  # what is drawn anew differs between ranks until it is sharded
    assert not is_sharded(dit)
    dit.shard(mesh, CPU)
    assert is_sharded(dit)
    for (name, mine), (_, theirs) in zip(dit.named_parameters(), reference.named_parameters(), strict=True):
        assert isinstance(mine, DTensor) and mine.dtype == theirs.dtype and mine.requires_grad == theirs.requires_grad
        assert torch.equal(whole(mine.detach()), theirs), name
        assert local(mine).numel() <= -(-theirs.shape[0] // world_size) * theirs[0].numel()

    losses, gradients = mean_gradients(reference, world_size)
    loss = loss_of(dit, rank)
    assert agree(loss, losses[rank])
    loss.backward()
    assert all(isinstance(p, DTensor) for p in dit.parameters())  # nothing stays gathered behind a backward pass
    compare(dit, gradients)
    loss_of(dit, rank).backward()  # a second one adds up
    compare(dit, {name: 2 * grad for name, grad in gradients.items()})

    dit.zero_grad()  # accumulation: only the last backward pass exchanges gradients
    dit.set_requires_gradient_sync(False)
    loss_of(dit, rank).backward()
    assert all(p.grad is None for p in dit.parameters())
    dit.set_requires_gradient_sync(True)
    loss_of(dit, rank).backward()
    compare(dit, {name: 2 * grad for name, grad in gradients.items()})

    dit.zero_grad()  # without the audio layers
    losses, gradients = mean_gradients(reference, world_size, off_sync=True)
    loss = loss_of(dit, rank, off_sync=True)
    assert agree(loss, losses[rank])
    loss.backward()
    assert {name for name, grad in gradients.items() if not name.startswith("audio_")} == {
        name for name, p in dit.named_parameters() if p.grad is not None
    }

    with torch.no_grad():  # a changed shard takes effect in the next forward pass, whatever ran before
        before = loss_of(dit, rank)
        reshard(dit)
        assert all(isinstance(p, DTensor) for p in dit.parameters())
        for module in (dit, reference):
            for parameter in module.parameters():
                local(parameter).mul_(1.05)
        after = loss_of(dit, rank)
        assert agree(after, loss_of(reference, rank)) and not agree(after, before, 1e-3)


def check_bfloat16(rank: int, world_size: int) -> None:
    """Weights are kept in float32, gathered in bfloat16 and get float32 gradients near those of the exact model."""
    reference, dit = (
        tiny_dit("miniflux", 2, frozen_dtype=dtype, checkpoint_activations=dtype == "bfloat16")
        for dtype in ("float32", "bfloat16")
    )
    dit.shard(init_device_mesh("cpu", (world_size,)), CPU, Sharding(torch.bfloat16))
    losses, gradients = mean_gradients(reference, world_size)
    loss = loss_of(dit, rank)
    assert agree(loss, losses[rank], 0.02)
    loss.backward()
    for name, parameter in dit.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == parameter.grad.dtype == torch.float32
            error = (whole(parameter.grad) - gradients[name]).norm() / gradients[name].norm()
            assert error < 0.1, (name, float(error))
        else:
            assert parameter.dtype == (torch.float32 if "out." in name[:18] else torch.bfloat16), name


def main(store: Path) -> None:
    """What one of the processes does; it ends well if everything agrees."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    check_bfloat16(rank, world_size)
    check("miniflux", {}, rank, world_size)
    check("mmdit", {"checkpoint_activations": True, "train_embedders": True, "train_head": True}, rank, world_size)
    dist.destroy_process_group()
