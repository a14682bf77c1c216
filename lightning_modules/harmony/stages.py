"""Harmony's curriculum: what each stage runs and trains, and how a stage begins where another one ended.

Source: Harmony (arXiv 2511.21579), "Training": 1. foundational audio pre-training, with a piece of the target sound as
reference, 2. timbre disentanglement, with another utterance of the speaker, 3. cross-task joint training. A stage of
the video tower alone (the paper takes Wan2.2 as it is) and adapters (LoRA) in place of whole towers are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from components.backbones.harmony.lora import adapt_tower, base_identity, forget_files_of_frozen, trains_beside_frozen
from components.backbones.harmony.model import PARTS, HarmonyTransformer, part_of
from components.backbones.lora import LoRAConfig, adapted_weight, is_adapter, merged, plain_name
from components.contracts import Modality
from components.errors import InputError
from components.weights.file import open_weights
from components.weights.identity import Identity
from components.weights.pretrained import located
from lightning_modules.checkpoints.init_from import (
    check_same_frozen,
    is_export,
    take_over,
    weights_to_begin_with,
)
from lightning_modules.checkpoints.loading import open_checkpoint

Stage = Literal["audio", "timbre", "video", "joint"]
STAGES: tuple[Stage, ...] = ("audio", "timbre", "video", "joint")
BEGINS_FROM: dict[str, tuple[str, ...]] = {
    "audio": ("audio",),
    "timbre": ("audio", "timbre"),
    "video": ("video",),
    "joint": ("timbre", "joint"),
}
"""Stages whose weights a stage may begin with; its own, to train anew on other data."""

STAGE_KEY = "harmony_stage"
"""Checkpoints hold the stage they were trained in under this key."""

LORA_KEY = "harmony_lora"
"""Checkpoints hold rank, alpha and targets of every adapted tower under this key."""

Adapters = Mapping[Modality, LoRAConfig]
"""The towers that have adapters."""

_PREFIX = "transformer."
_BOTH_TOWERS = "load_harmony loads the transformer"
_ONE_TOWER = "harmony_{side}_tower loads the {side} tower"


def modalities_of(stage: str) -> tuple[Modality, ...]:
    """The modalities that are learnt in a stage."""
    if stage == "joint":
        return ("video", "audio")
    return ("video",) if stage == "video" else ("audio",)


def needed_modalities(model: Mapping[str, Any]) -> tuple[Modality, ...]:
    """What clips must have for a module with these arguments."""
    return modalities_of((model.get("curriculum") or {}).get("stage", CurriculumConfig.stage))


@dataclass(frozen=True)
class CurriculumConfig:
    """The stage of the curriculum, what trains in it and what it begins with.

    Attributes:
        stage: ``audio`` (sound from descriptions and transcripts, beside a reference where the data gives one; the
            paper's is a piece of the target itself), ``timbre`` (the reference is another utterance), ``video`` (from
            prompts and first frames) or ``joint``. The first two run the audio tower alone, the third the video tower.
        init_from: what this training begins with: a checkpoint (whole or slim) of the previous stage or of the same, or
            a folder that ``avsync export`` wrote. Weights alone are taken; steps count from 0.
        train_video: stage joint trains the video tower.
        train_audio: stage joint trains the audio tower.
        video_lora: train adapters in the video tower instead of its weights, which stay frozen.
        audio_lora: the same for the audio tower, in any stage; what no Wan tower has (null reference, type vectors,
            transcript embedder) trains whole beside them.
        patience: training steps without content or gradient of a modality that end the run.
        future_temporal_factor: frames per latent of the video codec that stage joint will have. The stages without a
            video codec place their audio tokens on its clock; stage joint asks its codec instead.

    Raises:
        InputError: if settings are out of range or contradict each other.
    """

    stage: Stage = "joint"
    init_from: str | None = None
    train_video: bool = True
    train_audio: bool = True
    video_lora: LoRAConfig | None = None
    audio_lora: LoRAConfig | None = None
    patience: int = 50
    future_temporal_factor: int = 4

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise InputError(f"curriculum.stage is '{self.stage}': give {', '.join(STAGES[:-1])} or {STAGES[-1]}.")
        for name, value in (("patience", self.patience), ("future_temporal_factor", self.future_temporal_factor)):
            if value < 1:
                raise InputError(f"curriculum.{name} is {value}: give at least 1.")
        if self.init_from == "None":  # what the parser makes of a null given several classes deep on the command line
            raise InputError(
                "curriculum.init_from is the word None: to begin with nothing, set it to null in a file, or give "
                "--model.init_args.curriculum '{init_from: null}'."
            )
        for side in self.lora:
            if not self.trains[side]:
                fix = f"leave curriculum.{side}_lora out"
                why = f"stage {self.stage} trains the {self.modalities[0]} tower alone"
                if self.stage == "joint":
                    why, fix = f"curriculum.train_{side} is false", f"set that to true, or {fix}"
                raise InputError(f"curriculum.{side}_lora adapts the {side} tower, but {why}: {fix}.")

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that are learnt."""
        return modalities_of(self.stage)

    @property
    def trains(self) -> dict[str, bool]:
        """Which parts of the transformer train, whole or by their adapters."""
        if self.stage == "joint":
            return {"video": self.train_video, "audio": self.train_audio, "interaction": True}
        return {part: part in self.modalities for part in PARTS}

    @property
    def lora(self) -> Adapters:
        """The towers that are given adapters."""
        given: dict[Modality, LoRAConfig | None] = {"video": self.video_lora, "audio": self.audio_lora}
        return {side: config for side, config in given.items() if config is not None}


def freeze_for(transformer: HarmonyTransformer, curriculum: CurriculumConfig) -> tuple[str, ...]:
    """Freeze what does not train; the names of the parts that do.

    Args:
        transformer: is given the curriculum's adapters.
        curriculum: the stage and what trains in it.

    Raises:
        InputError: if a tower or the interaction is missing, or a target of adapters is no linear layer.
    """
    stage, trains, lora = curriculum.stage, curriculum.trains, curriculum.lora
    for side in curriculum.modalities:
        if getattr(transformer, side) is None:
            raise InputError(f"stage {stage} needs the transformer's {side} tower: give transformer.{side}.")
    if stage == "joint" and transformer.interaction_config is None:
        raise InputError("stage joint needs the transformer's interaction: give transformer.interaction.")
    for side, config in lora.items():
        adapt_tower(transformer, side, config)
    # after the adapters are in: these bring parameters of their own, and freeze the block around them
    found: set[str] = set()
    for name, parameter in transformer.named_parameters():
        part = part_of(name)
        parameter.requires_grad_(trains[part] and (part not in lora or trains_beside_frozen(name)))
        found.add(part)
    return tuple(part for part in PARTS if trains[part] and part in found)


def begin_from(
    path: str, transformer: HarmonyTransformer, curriculum: CurriculumConfig, frozen: Mapping[str, Identity]
) -> None:
    """Take over what the previous stage trained; averaged weights where its checkpoint has them.

    Adapters go on training where the transformer has the same, and are merged into a tower without any.

    Args:
        path: checkpoint of a `HarmonyModule`, file or folder, or an export; may be one that the package ships.
        transformer: receives the weights; `freeze_for` has prepared it.
        curriculum: the stage that begins.
        frozen: identities of codec and encoders here, by name; those of the checkpoint must be the same.

    Raises:
        InputError: if the checkpoint is missing or damaged, is of a stage that does not come before, does not fit, or
            was trained on other latents, texts or frozen weights. The transformer is unchanged then.
    """
    named, stage = f"curriculum.init_from '{path}'", curriculum.stage
    if is_export(path):  # which knows neither stage nor codecs, and has its adapters merged
        checkpoint: dict[str, Any] = {}
        weights = dict(open_weights(located(path)).tensors)
    else:
        checkpoint = open_checkpoint(path, "curriculum.init_from")
        there = checkpoint.get(STAGE_KEY)
        if there not in BEGINS_FROM[stage]:
            was = f"stage {there}" if there else "no stage of Harmony"
            raise InputError(
                f"{named} was trained in {was}, but this is stage {stage}: give a checkpoint of stage "
                f"{' or '.join(BEGINS_FROM[stage])}."
            )
        check_same_frozen(checkpoint, frozen, named)
        weights = weights_to_begin_with(checkpoint, _PREFIX)
    # before names are compared: adapters that are merged become plain weights
    weights = _take_over_adapters(path, checkpoint, weights, transformer, curriculum.lora)
    held = {plain_name(name): tensor for name, tensor in transformer.state_dict(keep_vars=True).items()}
    # The video tower and the interaction may be missing in stage joint: the audio stages have neither. So may a tower
    # of which the checkpoint holds adapters alone; `_take_over_adapters` has compared the weights below them.
    needed = "video" if stage == "video" else "audio"
    missing = [] if needed in checkpoint.get(LORA_KEY, {}) else [name for name in held if part_of(name) == needed]
    take_over(weights, held, [name for name in missing if name not in weights and not is_adapter(name)], named)
    forget_files_of_frozen(transformer, weights)


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
                f"{named} has {_described(there.get(side))} in the {side} tower, but curriculum.{side}_lora gives "
                f"{_described(here.get(side))}: set it to what the checkpoint was trained with."
            )


def _take_over_adapters(
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
            loader = _BOTH_TOWERS if checkpoint[STAGE_KEY] == "joint" else _ONE_TOWER.format(side=side)
            raise InputError(
                f"curriculum.init_from '{path}' has LoRA in the {side} tower on top of {recorded['name']} (sha256 "
                f"{recorded['sha256'][:12]}), which a checkpoint leaves out, but this config's tower is {base.name} "
                f"(sha256 {base.sha256[:12]}): load the same, or merge them with avsync export and leave "
                f"curriculum.init_from out (components.backbones.harmony.{loader} from the folder)."
            )
        if side not in lora:
            taken = {name: value for name, value in taken.items() if name not in adapters}
            taken |= _added(adapters, held, there["alpha"] / there["rank"])
        elif lora[side].layout != there:
            raise InputError(
                f"curriculum.init_from '{path}' has {_described(there)} in the {side} tower, but "
                f"curriculum.{side}_lora gives {_described(lora[side].layout)}: give the same to go on with it, or "
                f"leave curriculum.{side}_lora out to merge it into the tower."
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
