"""Harmony at full width on a card: as many layers of its stage-3 step as fit, its guided step whole, its adapters."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.gpu.measuring import GIB, measure, profile_of, waits_of
from benchmarks.gpu.rows import Notes, Place
from benchmarks.gpu.small_models import CLOCK, open_up
from benchmarks.gpu.syncphony_figures import adamw
from benchmarks.harmony_sizes import AUDIO_CHANNELS, SIZES, VIDEO_CHANNELS
from components.backbones.harmony.audio_tower import AudioTower
from components.backbones.harmony.interaction import InteractionConfig
from components.backbones.harmony.layer import HarmonyLayer
from components.backbones.harmony.model import HarmonyTransformer
from components.backbones.lora import LoRAConfig
from components.backbones.recomputation import Recomputation
from components.backbones.wan.model import WanTower
from components.contracts import TextFeatures
from components.counting.saved_activations import fused_attention, saved_bytes
from components.guidance.sync_cfg import SyncCFG
from components.objectives.cross_task import CrossTaskSynergy
from components.samplers.joint_sampler import JointConditions, JointSampler, ModalityText
from lightning_modules.estimates.memory import Activations, ExperimentMemory, Part, Sharing

LAYERS, TEXT_DIM, TRANSCRIPT_DIM, WORDS, LETTERS = 30, 4096, 1472, 512, 128
# Weight, gradient and AdamW's two moments in float32, and autocast's copy.
_BYTES_PER_TRAINED = 4 + 4 + 8 + 2
_ACTIVATIONS_GIB = {"480p": 7.0, "704p": 14.0}


def clip_shape(size: str, place: Place) -> tuple[int, int, int]:
    """Latents in time, rows and columns: 480x832x121 or 704x1280x121 in Wan2.2's latents, or a toy."""
    if place.is_rehearsal:
        return (4, 4, 6)
    return SIZES[size].latents, 2 * SIZES[size].rows, 2 * SIZES[size].columns


def num_sound(place: Place) -> int:
    """Latents of the sound, and of the reference."""
    return 17 if place.is_rehearsal else SIZES["480p"].audio


def on_meta(
    layers: int,
    place: Place,
    checkpoints: Recomputation,
    video_dtype: torch.dtype,
    driver_isolated: bool = False,
) -> HarmonyTransformer:
    """configs/harmony/stage3_joint.yaml's transformer with so many layers, as shapes."""
    settings: dict[str, Any] = {"num_layers": layers, "text_dim": TEXT_DIM}
    width = 1024
    if place.is_rehearsal:
        settings |= {"num_attention_heads": 2, "attention_head_dim": 32, "ffn_dim": 128, "text_len": 8}
        width = 64
    with torch.device("meta"):
        video = WanTower(in_channels=VIDEO_CHANNELS, out_channels=VIDEO_CHANNELS, **settings).to(video_dtype)
        audio = AudioTower(channels=AUDIO_CHANNELS, transcript_dim=TRANSCRIPT_DIM, **settings)
        heads = 2 if place.is_rehearsal else 8
        interaction = InteractionConfig(width, heads, driver_isolated=driver_isolated)
        return HarmonyTransformer(video, audio, interaction, checkpoint_activations=checkpoints)


def materialised(model: HarmonyTransformer, place: Place) -> HarmonyTransformer:
    """Random weights, made on the device."""
    model.to_empty(device=place.device)
    open_up(model, torch.Generator(place.device).manual_seed(0))
    return model


def text(rows: int, tokens: int, dim: int, place: Place) -> TextFeatures:
    """Without padding."""
    tokens = min(tokens, 8) if place.is_rehearsal else tokens
    mask = torch.ones(rows, tokens, dtype=torch.bool, device=place.device)
    return TextFeatures(torch.randn(rows, tokens, dim, device=place.device), mask)


class TrainingStep:
    """One clip, one task: rows, transformer under autocast, loss, backward pass, clipped gradients, AdamW."""

    def __init__(self, model: HarmonyTransformer, size: str, place: Place) -> None:
        self.model, self.place = model.train(), place
        self.tasks = CrossTaskSynergy("sample", (1.0, 0.0, 0.0), 0.0, 0.0)  # a joint row: the costliest task
        self.video = torch.randn(1, VIDEO_CHANNELS, *clip_shape(size, place), device=place.device)
        self.sound = torch.randn(1, AUDIO_CHANNELS, num_sound(place), device=place.device)
        self.generator = torch.Generator(place.device).manual_seed(0)
        self.given: dict[str, Any] = {
            "z_r": torch.randn_like(self.sound),
            "ref_len": torch.full((1,), num_sound(place), device=place.device),
            "text_v": text(1, WORDS, TEXT_DIM, place),
            "text_a": text(1, WORDS, TEXT_DIM, place),
            "transcript": text(1, LETTERS, TRANSCRIPT_DIM, place),
            "clock": CLOCK,
        }
        self.optimizer = adamw(model)

    def __call__(self) -> Tensor:
        """One step; its loss."""
        rows = self.tasks.rows(self.video, self.sound, self.tasks.draw(self.video, self.sound, self.generator))
        assert rows.video is not None
        assert rows.audio is not None
        with torch.autocast(self.place.backend, torch.bfloat16):
            outputs = self.model(
                rows.video.latents,
                rows.audio.latents,
                t_v=rows.video.timesteps,
                t_a=rows.audio.timesteps,
                first_frame=rows.first_frame,
                **self.given,
            )
        loss, _ = self.tasks.loss(rows, *outputs)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def as_many_layers_as_fit(first: int, make: Callable[[int], TrainingStep], place: Place) -> tuple[TrainingStep, int]:
    """A step that has run once, and its layers: ``first`` of them, halved while memory runs out."""
    layers = first
    while True:
        try:
            return _run_once(make, layers, place), layers
        except torch.OutOfMemoryError:
            if layers == 1:
                raise
        gc.collect()  # not in the handler, where the traceback still holds the tensors
        torch.cuda.empty_cache()
        layers //= 2


def _run_once(make: Callable[[int], TrainingStep], layers: int, place: Place) -> TrainingStep:
    step = make(layers)
    step()
    place.wait()
    return step


def estimated_layers(size: str, place: Place) -> int:
    """Layers that train within the card's free memory, by count."""
    if place.is_rehearsal:
        return 2
    shapes = on_meta(1, place, True, torch.float32)
    layer = sum(parameter.numel() for parameter in shapes.layers.parameters())
    rest = sum(parameter.numel() for parameter in shapes.parameters()) - layer
    free = torch.cuda.mem_get_info(place.device)[0] - _ACTIVATIONS_GIB[size] * GIB - rest * _BYTES_PER_TRAINED
    return max(1, min(LAYERS, int(free / (layer * _BYTES_PER_TRAINED))))


def note_counted(model: HarmonyTransformer, size: str, place: Place, notes: Notes) -> None:
    """What the tables of ``avsync estimate`` would say of a step of this model: no codec, no average.

    Args:
        model: shapes alone; in bfloat16 afterwards.
        size: of the clip.
        place: of the step.
        notes: takes the figures.
    """
    part = Part.of(model.parameters())
    layers = cast(list[HarmonyLayer], list(model.layers))
    unit = max(Part.of(layer.parameters()).parameters for layer in layers)
    model.to(torch.bfloat16)  # what mixed precision computes in
    for layer in layers:
        layer.checkpoint_activations = False
    meta = Place("meta", place.folder)

    def latents(*shape: int) -> Tensor:
        return torch.empty(1, *shape, device="meta")

    sound, timesteps = latents(AUDIO_CHANNELS, num_sound(place)), torch.ones(1, device="meta")
    given: dict[str, Any] = {"z_r": sound, "ref_len": torch.ones(1, dtype=torch.long, device="meta"), "clock": CLOCK}
    given |= {"t_v": timesteps, "t_a": timesteps, "first_frame": torch.ones(1, dtype=torch.bool, device="meta")}
    words, letters = (8, 8) if place.is_rehearsal else (WORDS, LETTERS)
    given |= {name: text(1, words, TEXT_DIM, meta) for name in ("text_v", "text_a")}
    given["transcript"] = text(1, letters, TRANSCRIPT_DIM, meta)
    video = latents(VIDEO_CHANNELS, *clip_shape(size, place))
    with fused_attention():
        whole, blocks = saved_bytes(lambda: model(video, sound, **given), layers, model)
    activations = Activations.of(whole, blocks, [True] * len(blocks), "")
    memory = ExperimentMemory({"all": part}, {}, {}, unit, True, activations, 0, "1 clip", stepping=0)
    for name, value in memory.per_gpu(Sharing(1), averaged=False).items():
        notes.value(**{f"counted_{name.replace(' ', '_')}_gib": value / GIB})


def measure_harmony_step(size: str, place: Place, notes: Notes) -> None:
    """All weights train in float32; with thirty layers they and AdamW take 163 GiB, so fewer run on one card."""

    def make(layers: int) -> TrainingStep:
        return TrainingStep(materialised(on_meta(layers, place, True, torch.float32), place), size, place)

    estimated = estimated_layers(size, place)
    step, layers = as_many_layers_as_fit(estimated, make, place)
    notes.value(layers=layers, of_layers=LAYERS, estimated_layers=estimated, **parameters(step.model))
    note_step(step, place, notes)
    note_counted(on_meta(layers, place, True, torch.float32), size, place, notes)


def measure_harmony_adapters(place: Place, notes: Notes) -> None:
    """configs/harmony/lora.yaml on the whole transformer: adapters of rank 32 and the interaction train."""
    layers = 2 if place.is_rehearsal else LAYERS
    step = TrainingStep(materialised(adapted_on_meta(layers, place), place), "480p", place)
    notes.value(layers=layers, of_layers=LAYERS, **parameters(step.model))
    note_step(step, place, notes)
    note_counted(adapted_on_meta(layers, place), "480p", place, notes)


def adapted_on_meta(layers: int, place: Place) -> HarmonyTransformer:
    """Both towers frozen beside adapters, the video's in bfloat16, as shapes."""
    from lightning_modules.harmony.stages import CurriculumConfig, freeze_for

    model = on_meta(layers, place, True, torch.bfloat16)
    with torch.device("meta"):
        freeze_for(model, CurriculumConfig(stage="joint", video_lora=LoRAConfig(32), audio_lora=LoRAConfig(32)))
    return model


def parameters(model: nn.Module) -> dict[str, object]:
    """In millions, of all and of what trains."""
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {
        "parameters_m": sum(count for count, _ in counts) / 1e6,
        "trained_m": sum(count for count, trains in counts if trains) / 1e6,
        "flops_counted": "with recomputation",
    }


def note_step(step: TrainingStep, place: Place, notes: Notes) -> None:
    """Figures of a training step."""
    notes.require("the loss is finite", bool(step().isfinite()))
    measure("step", step, place, notes, rounds=3)
    waits_of("step", step, place, notes)
    profile_of("step", step, place, notes)


def measure_harmony_guided(size: str, place: Place, notes: Notes) -> None:
    """One step of joint sampling with four rows (joint, negative, silent, still), all thirty layers in bfloat16."""
    layers = 2 if place.is_rehearsal else LAYERS
    model = materialised(on_meta(layers, place, False, torch.bfloat16).to(torch.bfloat16), place).eval()
    clean = torch.randn(1, VIDEO_CHANNELS, *clip_shape(size, place), device=place.device)
    sound = torch.randn(1, AUDIO_CHANNELS, num_sound(place), device=place.device)
    prompts = [text(1, WORDS, TEXT_DIM, place) for _ in range(4)]
    conditions = JointConditions(
        video_text=ModalityText(prompts[0], negative=prompts[1]),
        audio_text=ModalityText(prompts[2], text(1, LETTERS, TRANSCRIPT_DIM, place), negative=prompts[3]),
        image=clean[:, :, :1],
        reference=torch.randn_like(sound),
        reference_lengths=torch.full((1,), num_sound(place), device=place.device),
        silence=sound[0],
        still=clean,
        clock=CLOCK,
    )
    sampler = JointSampler(1, guidance=SyncCFG("text+sync"))
    video_noise, audio_noise = torch.randn_like(clean), torch.randn_like(sound)

    def step() -> tuple[Tensor | None, Tensor | None]:
        return sampler.sample(model, conditions, video_noise=video_noise, audio_noise=audio_noise)

    tokens = clean.shape[2] * clean.shape[3] * clean.shape[4] // 4
    notes.value(layers=layers, of_layers=LAYERS, rows=4, video_tokens=tokens, weights="bfloat16")
    video, audio = step()
    finite = video is not None and audio is not None and bool(video.isfinite().all() & audio.isfinite().all())
    notes.require("the samples are finite", finite)
    measure("step", step, place, notes, rounds=3)
    waits_of("step", step, place, notes)
    profile_of("step", step, place, notes)
