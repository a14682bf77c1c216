"""Shares the tokens of tiny transformers among gloo processes, and holds what they give against one process's."""

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from components.backbones.context_parallel import ContextGroup
from components.backbones.harmony.frame_band import BandConfig
from components.backbones.harmony.interaction import InteractionConfig
from components.backbones.harmony.model import HarmonyTransformer
from components.backbones.sharding import whole
from components.backbones.syncphony.audio_windows import AudioRope, AudioTimeline
from components.backbones.syncphony.model import SyncphonyDiT
from components.samplers import pyramid_sampler
from components.samplers.pyramid_sampler import PyramidSampler
from tests.components.samplers.test_pyramid_sampler import sampled
from tests.ranks import joined
from tests.tiny_harmony import CHANNELS, NUM_VIDEO, audio_tower, inputs, video_tower
from tests.tiny_syncphony import (
    audio_features,
    column_sounds,
    generator,
    latents,
    model_columns,
    randomise,
    text_features,
    tiny_dit,
    training_columns,
)

HEADS = 4
VARIANTS: dict[str, dict[str, Any]] = {
    "as published": {},
    "gated, shared, selective": {"gate": "both", "style_kv": "shared", "checkpoint_activations": "selective"},
    "gathered, rotated as the tower, recomputed": {
        "band": BandConfig(kernel="gather", rope="tower", half_window=0.5),
        "checkpoint_activations": True,
    },
    "drivers detached": {"driver_isolated": True, "detach_driver": True},
    "no reference": {"reference": False},
    "video alone": {"audio": None},
    "sound alone": {"video": None},
}


def transformer(**settings: Any) -> HarmonyTransformer:
    """A trained dual tower of `HEADS` heads everywhere, the same on every rank."""
    video = video_tower(num_attention_heads=HEADS, attention_head_dim=12)
    audio = audio_tower(num_attention_heads=HEADS, attention_head_dim=6)
    recomputed = settings.pop("checkpoint_activations", False)
    towers = {"video": video, "audio": audio, **{k: settings.pop(k) for k in ("video", "audio") if k in settings}}
    interaction = InteractionConfig(width=48, num_heads=HEADS, **settings)
    model = HarmonyTransformer(**towers, interaction=interaction, checkpoint_activations=recomputed)
    randomise(model, seed=5)
    return model


def clips(model: HarmonyTransformer, reference: bool = True, seed: int = 9) -> dict[str, Any]:
    """Three rows of which one's sound drives and one's video; no count of tokens can be divided by two."""
    given = inputs(3, reference)
    given["z_v"] = torch.randn(3, CHANNELS, NUM_VIDEO, 6, 6, generator=generator(seed))  # 3 x 3 patches
    given["t_v"], given["t_a"] = torch.tensor([700.0, 300.0, 0.0]), torch.tensor([600.0, 0.0, 200.0])
    given["first_frame"] = torch.tensor([False, True, False])
    sides = {"video": ("z_v", "t_v", "text_v", "first_frame"), "audio": ("z_a", "t_a", "text_a")}
    for side, names in sides.items():
        if getattr(model, side) is None:
            given |= dict.fromkeys(names)
    given["active"] = [side for side in sides if getattr(model, side) is not None]
    return given


def loss_of(model: HarmonyTransformer, given: dict[str, Any]) -> Tensor:
    outputs = [out for out in model(**given) if out is not None]
    # one weight per number, so that a number in a wrong place is noticed
    weights = [torch.randn(out.shape, generator=generator(3)) for out in outputs]
    return torch.stack([(out.float() * w).square().mean() for out, w in zip(outputs, weights, strict=True)]).sum()


def agree(found: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((found - wanted).abs().max() <= tolerance * wanted.abs().max() + 1e-12)


def gradients(model: nn.Module, loss: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    found = loss()
    found.backward()
    return found.detach(), {n: whole(p.grad).clone() for n, p in model.named_parameters() if p.grad is not None}


def check_training(model: HarmonyTransformer | SyncphonyDiT, loss: Callable[[], Tensor], mesh: DeviceMesh) -> None:
    """One forward and backward pass, the same clips on all processes."""
    wanted_loss, wanted = gradients(model, loss)
    model.split_context(mesh)
    found_loss, found = gradients(model, loss)
    assert agree(found_loss, wanted_loss, 1e-6) and found.keys() == wanted.keys()
    apart = 0
    for name, gradient in found.items():
        mine = gradient.clone()
        dist.all_reduce(gradient)
        gradient /= dist.get_world_size()
        apart += not agree(mine, gradient, 1e-3)
        assert agree(gradient, wanted[name]), name
    assert apart > 0.5 * len(found)  # each process has seen tokens of its own


def check_harmony(mesh: DeviceMesh, settings: dict[str, Any]) -> None:
    reference = settings.get("reference", True)
    model = transformer(**{name: value for name, value in settings.items() if name != "reference"})
    given = clips(model, reference)
    with torch.no_grad():
        alone = model(**given)
    check_training(model, lambda: loss_of(model, given), mesh)
    with torch.no_grad():
        for mine, theirs in zip(model(**given), alone, strict=True):
            assert (mine is None) == (theirs is None)
            assert mine is None or agree(mine, theirs)


def kept_for_the_backward_pass(loss: Callable[[], Tensor]) -> int:
    """Numbers that a forward pass keeps, each as often as it is asked for."""
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss()
    return sum(kept)


def check_memory(mesh: DeviceMesh) -> None:
    """What is kept falls with the number of processes, but for padding and what all have."""
    model = transformer()
    for parameter in model.parameters():  # weights are kept as well, and whole
        parameter.requires_grad_(parameter.ndim < 2)
    given = clips(model)
    given["z_v"] = torch.randn(3, CHANNELS, NUM_VIDEO, 16, 16, generator=generator(1))
    alone = kept_for_the_backward_pass(lambda: loss_of(model, given))
    model.split_context(mesh)
    shared = kept_for_the_backward_pass(lambda: loss_of(model, given))
    # a ninth is texts, timesteps and the sound's few tokens with their padding; all else is shared evenly
    assert shared < (1 / 9 + 8 / 9 / mesh.size()) * 1.02 * alone


def check_syncphony(mesh: DeviceMesh, variant: str, rope: AudioRope, **settings: Any) -> None:
    """Columns of all stages, then sampling with memory and off-sync twins."""
    dit = tiny_dit(variant, 1, timeline=AudioTimeline(reach_latents=1, rope=rope), **settings)
    training = training_columns(latents(4, size=(8, 24)))  # 1 x 3 patches at the coarsest stage
    columns = model_columns(training, text_features(4))

    def loss() -> Tensor:
        outputs = dit(columns, column_sounds(training, dit, audio_features(4, 49 / 24)))
        return torch.stack([output.float().square().mean() for output in outputs]).mean()

    sampler = PyramidSampler(video_steps=(2, 1, 2))
    alone = sampled(dit, [0, 1], sampler)
    check_training(dit, loss, mesh)
    assert agree(sampled(dit, [0, 1], sampler), alone, 1e-4)
    # nothing is free on the other one
    with patch.object(pyramid_sampler, "free_bytes", lambda _: 0.0 if mesh.get_local_rank() else float("inf")):
        assert agree(sampled(dit, [0, 1], sampler), alone, 1e-4)


def check_sampling_that_keeps_its_drivers(mesh: DeviceMesh) -> None:
    model = transformer(driver_isolated=True, gate="source")
    given = clips(model)
    given["t_v"], given["first_frame"] = torch.zeros(3), torch.zeros(3, dtype=torch.bool)
    given["t_a"] = torch.tensor([700.0, 300.0, 100.0])

    def steps() -> list[Tensor]:
        drivers, made = model.driver_features(3, {"video": [0, 1, 2]}), []
        with torch.inference_mode():
            for _ in range(2):
                made.append(model(**given, drivers=drivers)[1])
        return made

    alone = steps()
    model.split_context(mesh)
    assert all(agree(mine, theirs) for mine, theirs in zip(steps(), alone, strict=True))


def check_data_and_context_with_sharded_weights(rank: int, world: int, context: int, replicas: int) -> None:
    """Groups have clips of their own; weights are sharded over all processes, or over those of a replica."""
    model = transformer()
    shares = [clips(model, seed=20 + share) for share in range(world // context)]
    parts = [gradients(model, partial(loss_of, model, given)) for given in shares]
    wanted = {name: sum(part[1][name] for part in parts) / len(parts) for name in parts[0][1]}
    mesh = init_device_mesh("cpu", (world // context, context), mesh_dim_names=("data", "context"))
    model.split_context(mesh["context"])
    sides, names = (replicas, world // replicas), ("replicate", "shard")
    mesh = init_device_mesh("cpu", sides, mesh_dim_names=names) if replicas > 1 else init_device_mesh("cpu", (world,))
    model.shard(mesh, torch.device("cpu"))
    loss, found = gradients(model, partial(loss_of, model, shares[rank // context]))
    assert agree(loss, parts[rank // context][0])
    for name, gradient in found.items():
        assert agree(gradient, wanted[name]), name


def check_tokens_that_do_not_fill_the_processes(mesh: DeviceMesh) -> None:
    """One token among two or four processes: all but one of them have padding alone."""
    split = ContextGroup(mesh).split((1, 0, 5))
    x = torch.randn(2, 6, HEADS, 3, generator=generator(1), dtype=torch.float64)
    mine = split.share(x).requires_grad_()
    heads = split.to_heads(mine)
    own = HEADS // mesh.size()
    assert torch.equal(heads, x[:, :, mesh.get_local_rank() * own :][:, :, :own])
    assert torch.equal(split.to_tokens(heads), mine) and torch.equal(split.gather(mine), x)
    split.gather(split.to_tokens(heads)).square().sum().backward()
    # the sum of all processes' losses
    torch.testing.assert_close(mine.grad, 2 * mesh.size() * mine.detach())


def everything(rank: int, world: int) -> None:
    """All checks, in processes that know each other."""
    joined()
    mesh = init_device_mesh("cpu", (world,))
    check_tokens_that_do_not_fill_the_processes(mesh)
    for name, settings in VARIANTS.items():
        try:
            check_harmony(mesh, settings)
        except AssertionError as error:
            raise AssertionError(name) from error
    # of two heads
    pairs = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("data", "context"))["context"]
    check_syncphony(pairs, "miniflux", "backbone", checkpoint_activations=True)
    check_syncphony(pairs, "mmdit", "time", train_embedders=True, train_head=True)
    check_sampling_that_keeps_its_drivers(mesh)
    check_memory(mesh)
    for replicas in (1, 2):
        check_data_and_context_with_sharded_weights(rank, world, 2, replicas)
