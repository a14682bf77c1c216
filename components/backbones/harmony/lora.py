"""Adapters in the towers of a `HarmonyTransformer`: where they go, what trains with them, what they stand on."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, cast

from torch import Tensor

from components.backbones.harmony.audio_tower import OWN_PARTS
from components.backbones.harmony.model import HarmonyTransformer, part_of
from components.backbones.lora import LoRAConfig, add_adapters, is_adapter, merged, plain_name
from components.contracts import Modality
from components.weights.identity import Identity, forget_identity, recorded_identity, sha256_of_tensors

_OWN = tuple(f"audio.{part}" for part in OWN_PARTS)


def adapt_tower(model: HarmonyTransformer, side: Modality, config: LoRAConfig) -> None:
    """Give every block of one tower adapters.

    Raises:
        InputError: if a target is no linear layer of the blocks.
    """
    for layer in model.layers:
        add_adapters(layer.get_submodule(f"{side}_block"), config)


def trains_beside_frozen(name: str) -> bool:
    """Whether a parameter of an adapted tower trains: adapters, and what no pre-trained Wan tower brings along.

    That is the audio tower's null reference, its type vectors and its transcript embedder.
    """
    return is_adapter(name) or name.startswith(_OWN)


def plain_tensors(model: HarmonyTransformer, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The tensors of the same model without adapters.

    An adapted tower comes out in float32, all of it, since its layers compute in one precision: bfloat16 rounds small
    updates of large weights away.

    Args:
        model: with or without adapters.
        tensors: the whole values under the model's names, where those of ``model`` are sharded.
    """
    values = model.state_dict() if tensors is None else tensors
    # by tower: an adapter on one layer makes float32 of all of them
    adapted = {part_of(name) for name in values if is_adapter(name)}
    # peft keeps alpha / rank of every adapter by name; ours has peft's own, "default"
    plain = merged(values, lambda layer: float(cast(Any, model.get_submodule(layer)).scaling["default"]))
    return {name: tensor.float() if part_of(name) in adapted else tensor for name, tensor in plain.items()}


def base_identity(model: HarmonyTransformer, side: Modality, trained: Container[str]) -> Identity:
    """Which weights the adapters of a tower stand on: those of the files it was loaded from, else its own.

    Args:
        model: with or without adapters.
        side: which tower.
        trained: plain names of what trains beside the adapters, or did where the adapters were trained.
    """
    tower = getattr(model, side)
    # a model loaded whole has one record, a model put together from towers one for each
    for module in (model, tower):
        recorded = recorded_identity(module)
        if recorded is not None:
            return recorded
    held = {name: value for name, value in model.state_dict().items() if part_of(name) == side and not is_adapter(name)}
    base = {plain_name(name): value for name, value in held.items() if plain_name(name) not in trained}
    return Identity(type(tower).__name__, sha256_of_tensors(base))


def trained_names(model: HarmonyTransformer) -> set[str]:
    """Plain names of what trains."""
    return {plain_name(name) for name, parameter in model.named_parameters() if parameter.requires_grad}


def forget_files_of_frozen(model: HarmonyTransformer, replaced: Container[str]) -> None:
    """Where frozen weights were replaced, no file tells any more what they are.

    Args:
        model: has taken over weights.
        replaced: their plain names.
    """
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and plain_name(name) in replaced:
            forget_identity(model)
            tower = getattr(model, part_of(name), None)
            if tower is not None:
                forget_identity(tower)
