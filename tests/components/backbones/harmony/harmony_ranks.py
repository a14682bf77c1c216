"""One rank of a sharded dual tower."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from components.backbones.harmony.lora import adapt_tower
from components.backbones.harmony.model import HarmonyLayer, HarmonyTransformer, part_of
from components.backbones.lora import LoRAConfig, is_adapter
from components.backbones.sharding import Sharding
from tests.tiny_harmony import inputs, tiny_harmony
from tests.tiny_syncphony import randomise


def loss_of(model: HarmonyTransformer, **how) -> torch.Tensor:
    return sum(v.float().square().mean() for v in model(**inputs(), **how) if v is not None)


def sharded(mesh, dtype: torch.dtype | None = None, **how) -> HarmonyTransformer:
    """Every rank starts from values of its own; rank 0's must win."""
    model = tiny_harmony(trained=True, **how)
    if dist.get_rank():
        randomise(model, seed=77)
    model.shard(mesh, torch.device("cpu"), Sharding(dtype))
    return model


def adapted(**how) -> HarmonyTransformer:
    """The video tower in bfloat16, frozen beneath adapters that do something."""
    model = tiny_harmony(trained=True, **how)
    for part in (model.video, *(layer.video_block for layer in model.layers)):
        part.bfloat16()
    torch.manual_seed(3)
    adapt_tower(model, "video", LoRAConfig(2))
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.1)
        parameter.requires_grad_(part_of(name) != "video" or is_adapter(name))
    return model


def main(store: Path) -> None:
    """What one of the processes does; it ends well if everything agrees."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", rank=rank, world_size=world, store=dist.FileStore(str(store), world))
    mesh = init_device_mesh("cpu", (world,))

    whole = tiny_harmony(trained=True)
    golden = loss_of(whole)
    golden.backward()
    for checkpointed in (False, True):
        model = sharded(mesh, checkpoint_activations=checkpointed)
        assert all(isinstance(p, DTensor) for p in model.parameters())
        units = [part for part in model.modules() if isinstance(part, FSDPModule)]
        assert sum(isinstance(unit, HarmonyLayer) for unit in units) == len(model.layers) > 1  # a pair of blocks each
        held = sum(p.to_local().numel() for p in model.parameters())
        assert abs(held / sum(p.numel() for p in model.parameters()) - 1 / world) < 0.05
        loss = loss_of(model)
        torch.testing.assert_close(loss, golden)
        loss.backward()
        assert not any(p.grad is None for p in model.parameters())
        for (name, mine), theirs in zip(model.named_parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(mine.grad.full_tensor(), theirs.grad, atol=1e-5, rtol=1e-4, msg=name)

    for side in ("video", "audio"):  # one tower alone: the other's embedders stay unused on all ranks alike
        with torch.no_grad():
            torch.testing.assert_close(loss_of(model, active=[side]), loss_of(whole, active=[side]))

    with torch.no_grad():
        plain = tiny_harmony(trained=True).bfloat16()
        mixed = sharded(mesh, torch.bfloat16)
        torch.testing.assert_close(loss_of(mixed), loss_of(plain), atol=2e-2, rtol=2e-2)
        seen = []
        for tower in (mixed.video, mixed.audio):
            tower.condition_embedder.time_embedder.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
        loss_of(mixed)
        assert seen == [torch.float32, torch.float32]
    loss_of(mixed).backward()
    assert {p.grad.dtype for p in mixed.parameters()} == {torch.float32}

    whole = adapted()
    loss_of(whole).backward()
    for checkpointed in (False, True):
        model = adapted(checkpoint_activations=checkpointed)
        model.shard(mesh, torch.device("cpu"))
        loss_of(model).backward()
        for (name, mine), theirs in zip(model.named_parameters(), whole.parameters(), strict=True):
            assert mine.dtype == theirs.dtype, name
            assert (mine.grad is None) == (theirs.grad is None) == (not theirs.requires_grad), name
            if theirs.grad is not None:
                torch.testing.assert_close(mine.grad.full_tensor(), theirs.grad, atol=2e-3, rtol=2e-2, msg=name)
    dist.destroy_process_group()
