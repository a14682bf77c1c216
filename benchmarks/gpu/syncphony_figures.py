"""Syncphony at full width on a card: its training step, its guided step in all three stages, its memory as counted."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.columns import public_step
from benchmarks.gpu.measuring import GIB, Action, measure, profile_of, waits_of
from benchmarks.gpu.rows import Notes, Place
from benchmarks.gpu.small_models import FPS, TEMPORAL_FACTOR, small_vae
from benchmarks.pyramid_batch import (
    POOLED_DIM,
    PUBLIC,
    TEXT_DIM,
    BatchSize,
    ModelSize,
    build_dit,
    num_video_tokens,
    training_columns,
)
from components.backbones.syncphony.model import SyncphonyDiT
from components.contracts import AudioFeatures, TextFeatures
from components.counting.saved_activations import fused_attention, saved_bytes
from components.guidance.guidance import AudioSyncGuidance, TextGuidance, guided_velocity
from components.objectives.motion_aware import MotionAwareLoss
from components.objectives.prefix_lengths import units_per_stage
from components.objectives.pyramid_columns import AutoregressivePyramid, history_clips
from components.objectives.pyramid_objective import PyramidObjective
from components.optimization import prefer_fused
from components.samplers.pyramid_sampler import Conditions, evaluate_branches
from components.schedules.pyramid_schedule import euler_step, latent_pyramid
from lightning_modules.estimates.memory import Activations, ExperimentMemory, Part, Sharing

CHANNELS, AUDIO_DIM, AUDIO_HZ = 16, 1024, 50.0
_TOY = ModelSize("miniflux", 2, 1, 2, 1)


def sizes(place: Place) -> tuple[ModelSize, BatchSize]:
    """The public transformer on 4 clips of 121 frames of 384x640, or a toy."""
    if place.is_rehearsal:
        return _TOY, BatchSize(4, 4, 8, 16, prefix=3, shortest=2, words=8)
    return PUBLIC["miniflux"], BatchSize(prefix=8, shortest=2)


def build(size: ModelSize, device: str, checkpoints: bool = True) -> SyncphonyDiT:
    """As configs/syncphony/base.yaml has it: frozen blocks in bfloat16, late ones in float32, sound."""
    return build_dit(size, device, torch.float32, torch.bfloat16, AUDIO_DIM, checkpoints)


def text_of(rows: int, words: int, size: ModelSize, device: str) -> TextFeatures:
    """Prompts without padding."""
    tokens = torch.randn(rows, words, TEXT_DIM, device=device)
    pooled = torch.randn(rows, POOLED_DIM[size.variant], device=device)
    return TextFeatures(tokens, torch.ones(rows, words, dtype=torch.bool, device=device), pooled)


def sound_of(rows: int, latents: int, device: str) -> AudioFeatures:
    """Tokens at 50 Hz over the whole clip."""
    num = int((1 + TEMPORAL_FACTOR * (latents - 1)) / FPS * AUDIO_HZ)
    mask = torch.ones(rows, num, dtype=torch.bool, device=device)
    return AudioFeatures(torch.randn(rows, num, AUDIO_DIM, device=device), AUDIO_HZ, mask, 0.5 / AUDIO_HZ)


class TrainingStep:
    """Columns, transformer, loss, backward pass, clipped gradients, AdamW: what Lightning runs under ``bf16-mixed``."""

    def __init__(self, size: ModelSize, batch: BatchSize, place: Place) -> None:
        device = place.device
        self.place, self.batch = place, batch
        self.dit = build(size, device).train()
        self.codec = small_vae().to(device)  # asked for its normalisation alone
        self.latents = torch.randn(batch.clips, CHANNELS, batch.latents, batch.height, batch.width, device=device)
        self.text = text_of(batch.clips, batch.words, size, device)
        self.sound = sound_of(batch.clips, batch.latents, device)
        self.objective = PyramidObjective(AutoregressivePyramid(), MotionAwareLoss(1.0))
        self.units = units_per_stage(batch.prefix, batch.latents, 3, batch.shortest)
        self.optimizer = adamw(self.dit)
        self.generator = torch.Generator(device).manual_seed(0)

    def __call__(self) -> Tensor:
        """One step; its loss."""
        with torch.autocast(self.place.backend, torch.bfloat16):
            loss = self.objective(
                self.dit, self.codec, self.latents, self.text, self.sound, FPS, self.units, self.generator
            )["loss"]
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def adamw(module: nn.Module) -> torch.optim.AdamW:
    """As the experiments build it, over what trains: one kernel on a card."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-5, betas=(0.9, 0.95), weight_decay=1e-4)
    prefer_fused(optimizer)
    return optimizer


def measure_syncphony_step(place: Place, notes: Notes) -> None:
    """Time, FLOPs, memory as measured and as counted, launches, waits."""
    size, batch = sizes(place)
    step = TrainingStep(size, batch, place)
    columns = training_columns(batch, size.variant, "meta")
    notes.value(
        blocks=size.num_blocks,
        clips=batch.clips,
        video_tokens=num_video_tokens(columns),
        parameters_m=sum(p.numel() for p in step.dit.parameters()) / 1e6,
        trained_m=sum(p.numel() for p in step.dit.parameters() if p.requires_grad) / 1e6,
        flops_counted="with recomputation",
    )
    notes.require("the loss is finite", bool(step().isfinite()))
    measure("step", step, place, notes)
    for name, value in counted_memory(size, batch).per_gpu(Sharing(1), averaged=False).items():
        notes.value(**{f"counted_{name.replace(' ', '_')}_gib": value / GIB})
    waits_of("step", step, place, notes)
    profile_of("step", step, place, notes)


def measure_columns(place: Place, notes: Notes) -> None:
    """Forward and backward pass with all columns in one call, and with a call for each: time, memory, launches."""
    size, batch = sizes(place)
    step = public_step(size, batch, place.device, build(size, place.device).train())
    with torch.autocast(place.backend, torch.bfloat16):
        pairs = zip(step.together(), step.apart(), strict=True)
        notes.value(velocities_differ=max(float((a - b).abs().max()) for a, b in pairs))
        for name, action in (("apart", step.apart), ("together", step.together)):
            measure(name, action, place, notes)
            profile_of(name, action, place, notes, most=3)


def counted_memory(size: ModelSize, batch: BatchSize) -> ExperimentMemory:
    """What the tables of ``avsync estimate`` would say of this step: the transformer alone, no codec, no average."""
    dit = build(size, "meta")
    frozen, trained = (Part.of(p for p in dit.parameters() if p.requires_grad == train) for train in (False, True))
    dit.to(torch.bfloat16)  # what mixed precision computes in
    columns = training_columns(batch, size.variant, "meta")
    sounds = []
    for column in columns:
        frames = sum(clip.shape[2] for clip in column.clips)
        sound = dit.encode_audio(sound_of(column.num_rows, batch.latents, "meta"), frames, FPS, TEMPORAL_FACTOR)
        assert sound is not None
        sounds.append(sound)
    computed_again = [*dit.backbone.blocks[dit.first_late_block :], *(dit.audio_layers or ())]
    policies = 2 * dit.late_policies  # of blocks, and of the audio layers in front of them
    dit.checkpoint_activations = False
    with fused_attention():
        whole, blocks = saved_bytes(lambda: dit(columns, sounds), computed_again, dit)
    activations = Activations.of(whole, blocks, policies, "")
    largest = max(Part.of(block.parameters()).parameters for block in dit.backbone.blocks)
    parts = {"frozen": frozen, "trained": trained}
    return ExperimentMemory(parts, {}, {}, largest, True, activations, 0, f"{batch.clips} clips", stepping=0)


def measure_syncphony_guided(place: Place, notes: Notes) -> None:
    """One Euler step of every stage, guided by text and sound, in the middle and at the end of a clip."""
    size, batch = sizes(place)
    with torch.no_grad(), torch.autocast(place.backend, torch.bfloat16):
        first = True
        for name, action in guided_steps(size, batch, place):
            if first:  # its FLOPs, memory and launches; the others in time alone
                profile_of(name, action, place, notes)
                waits_of(name, action, place, notes)
            first = False
            measure(name, action, place, notes, rounds=5)


def guided_steps(size: ModelSize, batch: BatchSize, place: Place) -> Iterator[tuple[str, Action]]:
    """A step of one clip for every stage of two latents, the last stage first."""
    device = place.device
    dit = build(size, device, checkpoints=False).eval()
    text, negative = (text_of(1, batch.words, size, device) for _ in range(2))
    audio = dit.encode_audio(sound_of(1, batch.latents, device), batch.latents, FPS, TEMPORAL_FACTOR)
    schedule = AutoregressivePyramid().schedule
    latents = torch.randn(1, CHANNELS, batch.latents, batch.height, batch.width, device=device)
    guidance = TextGuidance(4.0), AudioSyncGuidance(2.0)

    def step(unit: int, stage: int) -> Tensor:
        pyramid = latent_pyramid(latents[:, :, : unit + 1], schedule.stages)
        x = pyramid[stage][:, :, unit:]
        history = history_clips([level[:, :, :unit] for level in pyramid], stage, unit, 1)
        timesteps, local = schedule.inference_points(stage, 10)
        branches = evaluate_branches(dit, [*history, x], timesteps[0], Conditions(text, negative, audio), True, True)
        return euler_step(x, guided_velocity(branches, *guidance), local[0], local[1])

    for unit in (batch.latents // 2, batch.latents - 1):
        for stage in reversed(range(schedule.stages)):
            yield f"latent{unit}_stage{stage}", partial(step, unit, stage)
