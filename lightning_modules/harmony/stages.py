"""Harmony's curriculum: what each stage runs and trains, and how a stage begins where another one ended.

Source: Harmony, "Loss & Training": audio pre-training, timbre-decoupled fine-tuning, joint training.
"""

from __future__ import annotations

import pickle
from typing import Any, Literal

import torch
from torch import Tensor

from callbacks.ema import EMA_PREFIX
from components.backbones.harmony.lora import adapt_tower, forget_files_of_frozen, trains_beside_frozen
from components.backbones.harmony.model import PARTS, HarmonyTransformer, part_of
from components.backbones.lora import is_adapter, plain_name
from components.errors import InputError
from components.weights.identity import Identity
from components.weights.pretrained import located
from lightning_modules.checkpoints.atomic import AtomicCheckpointIO
from lightning_modules.checkpoints.check import check_checkpoint, checkpoint_error_sentence
from lightning_modules.harmony.adapters import LORA_KEY, Adapters, take_over_adapters

Stage = Literal["audio", "timbre", "joint"]
STAGES: tuple[Stage, ...] = ("audio", "timbre", "joint")
BEGINS_FROM: dict[str, tuple[str, ...]] = {"audio": (), "timbre": ("audio",), "joint": ("timbre", "joint")}
_PREFIX = "transformer."


def freeze_for(
    transformer: HarmonyTransformer, stage: Stage, train_video: bool, train_audio: bool, lora: Adapters
) -> tuple[str, ...]:
    """Freeze what does not train in ``stage``; the names of the parts that do.

    Args:
        transformer: is given the adapters of ``lora``.
        stage: which stage.
        train_video: whether stage joint trains the video tower.
        train_audio: the same for the audio tower.
        lora: towers of which adapters train instead of the weights.

    Raises:
        InputError: for an unknown stage, a tower it needs that is missing, or adapters that would not train.
    """
    if stage not in STAGES:
        raise InputError(f"stage is '{stage}': give {', '.join(STAGES[:-1])} or {STAGES[-1]}.")
    needed = (
        {"video": transformer.video, "audio": transformer.audio} if stage == "joint" else {"audio": transformer.audio}
    )
    for name, tower in needed.items():
        if tower is None:
            raise InputError(f"stage {stage} needs the transformer's {name} tower: give transformer.{name}.")
    if stage == "joint" and transformer.interaction_config is None:
        raise InputError("stage joint needs the transformer's interaction: give transformer.interaction.")
    trains = {"video": train_video, "audio": train_audio, "interaction": True}
    if stage != "joint":
        trains = {"video": False, "audio": True, "interaction": False}
    for side, config in lora.items():
        if not trains[side]:
            why, mend = f"stage {stage} trains the audio tower alone", f"leave {side}_lora out"
            if stage == "joint":
                why, mend = f"train_{side} is false", f"set that to true, or {mend}"
            raise InputError(f"{side}_lora adapts the {side} tower, but {why}: {mend}.")
        adapt_tower(transformer, side, config)
    found: dict[str, bool] = {}
    for name, parameter in transformer.named_parameters():
        part = part_of(name)
        parameter.requires_grad_(trains[part] and (part not in lora or trains_beside_frozen(name)))
        found[part] = True
    return tuple(part for part in PARTS if trains[part] and part in found)


def begin_from(
    path: str, transformer: HarmonyTransformer, stage: Stage, frozen: dict[str, Identity], lora: Adapters
) -> None:
    """Take over what the previous stage trained; averaged weights where its checkpoint has them.

    Adapters go on training where the transformer has the same, and are merged into a tower without any.

    Args:
        path: checkpoint of a `HarmonyModule`, file or folder; may be one that the package ships.
        transformer: receives the weights.
        stage: the stage that begins.
        frozen: identities of codec and encoders here, by name; those of the checkpoint must be the same.
        lora: the adapters that the transformer has.

    Raises:
        InputError: if the checkpoint is missing or damaged, is of a stage that does not come before, does not fit, or
            was trained on other latents, texts or frozen weights. The transformer is unchanged then.
    """
    source = str(located(path))
    check_checkpoint(source, "init_from")
    try:
        checkpoint: dict[str, Any] = AtomicCheckpointIO().load_checkpoint(source)
    except (FileNotFoundError, pickle.UnpicklingError) as error:
        raise InputError(checkpoint_error_sentence(error, source, "init_from")) from None
    there = checkpoint.get("harmony_stage")
    if there not in BEGINS_FROM[stage]:
        before = " or ".join(BEGINS_FROM[stage])
        mend = f"give a checkpoint of stage {before}" if before else "leave init_from out; stage audio is the first"
        was = f"stage {there}" if there else "no stage of Harmony"
        raise InputError(f"init_from '{path}' was trained in {was}, but this is stage {stage}: {mend}.")
    for name, identity in frozen.items():
        recorded = checkpoint.get("frozen", {}).get(name)
        if recorded is not None and recorded["sha256"] != identity.sha256:
            raise InputError(
                f"init_from '{path}' was trained with another {name}: {recorded['name']} (sha256 "
                f"{recorded['sha256'][:12]}), but this config loads {identity.name} (sha256 {identity.sha256[:12]}); "
                "use the same."
            )
    stored: dict[str, Tensor] = checkpoint["state_dict"]
    averages = {name.removeprefix(EMA_PREFIX): value for name, value in stored.items() if name.startswith(EMA_PREFIX)}
    weights = {name: value for name, value in stored.items() if not name.startswith(EMA_PREFIX)} | averages
    weights = {name.removeprefix(_PREFIX): value for name, value in weights.items() if name.startswith(_PREFIX)}
    weights = take_over_adapters(path, checkpoint, weights, transformer, lora)
    held = {plain_name(name): tensor for name, tensor in transformer.state_dict().items()}
    missing = [] if "audio" in checkpoint.get(LORA_KEY, {}) else [name for name in held if part_of(name) == "audio"]
    missing = sorted(name for name in missing if name not in weights and not is_adapter(name))
    unexpected = sorted(weights.keys() - held.keys())
    shapes = sorted(name for name in weights.keys() & held.keys() if weights[name].shape != held[name].shape)
    if missing or unexpected or shapes:
        raise InputError(
            f"init_from '{path}' does not fit this transformer: missing {missing[:10]}, unexpected {unexpected[:10]}, "
            f"of another shape {shapes[:10]}; use the tower the checkpoint was made with."
        )
    with torch.no_grad():
        for name, value in weights.items():
            held[name].copy_(value)
    forget_files_of_frozen(transformer, weights)
