"""What a Harmony checkpoint with adapters (LoRA) says of them, and how a run goes on or begins with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from components.backbones.harmony.lora import base_identity
from components.backbones.harmony.model import HarmonyTransformer, Modality, part_of
from components.backbones.lora import LoRAConfig, adapted_weight, is_adapter, merged, plain_name
from components.errors import InputError

LORA_KEY = "harmony_lora"
"""Checkpoints hold rank, alpha and targets of every adapted tower under this key."""

Adapters = Mapping[Modality, LoRAConfig]
"""The towers that have adapters."""

_BOTH_TOWERS, _AUDIO_TOWER = "load_harmony loads the transformer", "harmony_audio_tower loads the audio tower"


def adapted_towers(video: LoRAConfig | None, audio: LoRAConfig | None) -> Adapters:
    """The towers that are given adapters."""
    given: dict[Modality, LoRAConfig | None] = {"video": video, "audio": audio}
    return {side: config for side, config in given.items() if config is not None}


def tower_name(side: Modality) -> str:
    """What a checkpoint's ``frozen`` calls the weights that the adapters of a tower stand on."""
    return f"{side}_tower"


def layouts(lora: Adapters) -> dict[str, dict[str, Any]]:
    """The value of `LORA_KEY`."""
    return {side: config.layout for side, config in lora.items()}


def check_layouts(checkpoint: Mapping[str, Any], lora: Adapters, named: str) -> None:
    """Refuse to go on with a checkpoint whose adapters are others.

    Raises:
        InputError: naming both.
    """
    there, here = checkpoint.get(LORA_KEY, {}), layouts(lora)
    for side in ("video", "audio"):
        if there.get(side) != here.get(side):
            raise InputError(
                f"{named} has {_described(there.get(side))} in the {side} tower, but {side}_lora gives "
                f"{_described(here.get(side))}: set it to what the checkpoint was trained with."
            )


def take_over_adapters(
    path: str,
    checkpoint: Mapping[str, Any],
    weights: dict[str, Tensor],
    transformer: HarmonyTransformer,
    lora: Adapters,
) -> dict[str, Tensor]:
    """The weights that a stage begins with: adapters that go on training, and others merged into plain weights.

    Args:
        path: of the checkpoint.
        checkpoint: of the previous stage.
        weights: its weights and adapters under the transformer's names.
        transformer: has the weights that the adapters stand on.
        lora: the adapters it has.

    Raises:
        InputError: if the transformer has other weights or adapters of another size or place.
    """
    taken = dict(weights)
    held = {plain_name(name): tensor for name, tensor in transformer.state_dict().items()}
    for side, there in checkpoint.get(LORA_KEY, {}).items():
        adapters = {name: value for name, value in weights.items() if is_adapter(name) and part_of(name) == side}
        recorded, base = checkpoint["frozen"][tower_name(side)], base_identity(transformer, side, weights)
        if base.sha256 != recorded["sha256"]:
            loader = _BOTH_TOWERS if checkpoint["harmony_stage"] == "joint" else _AUDIO_TOWER
            raise InputError(
                f"init_from '{path}' has LoRA in the {side} tower on top of {recorded['name']} (sha256 "
                f"{recorded['sha256'][:12]}), which a checkpoint leaves out, but this config's tower is {base.name} "
                f"(sha256 {base.sha256[:12]}): load the same, or merge them with avsync export and leave init_from "
                f"out (components.backbones.harmony.checkpoint.{loader} from the folder)."
            )
        if side not in lora:
            taken = {name: value for name, value in taken.items() if name not in adapters}
            taken |= _added(adapters, held, there["alpha"] / there["rank"])
        elif lora[side].layout != there:
            raise InputError(
                f"init_from '{path}' has {_described(there)} in the {side} tower, but {side}_lora gives "
                f"{_described(lora[side].layout)}: give the same to go on with it, or leave {side}_lora out to merge "
                "it into the tower."
            )
    return taken


def _added(adapters: dict[str, Tensor], held: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    """The weights that ``adapters`` adapt, with them."""
    adapted = {weight: held[weight] for weight in map(adapted_weight, adapters)}
    return merged(adapted | adapters, lambda _: factor)


def _described(layout: Mapping[str, Any] | None) -> str:
    if layout is None:
        return "no LoRA"
    return f"LoRA of rank {layout['rank']} and alpha {layout['alpha']:g} on {', '.join(layout['targets'])}"
