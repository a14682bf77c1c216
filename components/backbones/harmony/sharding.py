"""Sharding a `HarmonyTransformer` over processes: every layer (both blocks, their interaction), then the root."""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import DeviceMesh

from components.backbones.harmony.model import HarmonyTransformer
from components.backbones.sharding import shard_units


def shard_harmony(
    model: HarmonyTransformer, mesh: DeviceMesh, device: torch.device, compute_dtype: torch.dtype | None = None
) -> None:
    """Move ``model`` to ``device`` and shard it in place, layer by layer: no more than one layer is ever whole there.

    All ranks take rank 0's values. Trainable weights are kept in float32, frozen ones in the precision they have.

    Args:
        model: the dual tower, not yet sharded, with its weights loaded.
        mesh: one-dimensional; the processes that share the weights.
        device: where this process computes.
        compute_dtype: precision in which layers gather their weights and compute; None computes in the precision the
            weights have. Gradients are summed over the processes in float32 either way.
    """
    # Timestep embedders compute in the precision their weights have: diffusers too keeps them in float32 beside
    # bfloat16 blocks, because sinusoids of timesteps up to 1000 say little in eight bits.
    towers = [tower for tower in (model.video, model.audio) if tower is not None]
    shard_units([tower.condition_embedder.time_embedder for tower in towers], mesh, device)
    shard_units((*model.layers, model), mesh, device, compute_dtype)
