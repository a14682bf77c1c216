"""Savings on a card, each way beside the others: what Syncphony leaves out, drivers, activations, optimizers."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from benchmarks.driver_features import ANEW, KEPT, TASKS, Sampler
from benchmarks.gpu.harmony_figures import (
    LAYERS,
    TEXT_DIM,
    WORDS,
    clip_shape,
    materialised,
    num_sound,
    on_meta,
    text,
)
from benchmarks.gpu.harmony_figures import TrainingStep as HarmonyStep
from benchmarks.gpu.measuring import GIB, Action, timed
from benchmarks.gpu.rows import Notes, Place, milliseconds, relative_difference
from benchmarks.gpu.small_models import CLOCK, FPS, TEMPORAL_FACTOR
from benchmarks.gpu.syncphony_figures import CHANNELS, build, sizes, sound_of, text_of
from benchmarks.gpu.syncphony_figures import TrainingStep as SyncphonyStep
from benchmarks.harmony_sizes import AUDIO_CHANNELS, VIDEO_CHANNELS
from benchmarks.pyramid_savings import OF_TRAINING, WAYS, Run, as_it_is
from components.backbones.recomputation import Recomputation
from components.optimization import MuonAdamW, state_bytes
from components.samplers.joint_sampler import JointConditions, ModalityText
from components.samplers.pyramid_sampler import Conditions, PyramidSampler

STEPS = 3
"""Of each stage, or of joint sampling: the first one cannot find anything that is kept."""
POLICIES: tuple[Recomputation, ...] = ("none", 2, "selective", "full")


@torch.no_grad()
def measure_syncphony_sampling(place: Place, notes: Notes) -> None:
    """A clip of full size in three steps a stage, saving by saving; the last row is not exact."""
    size, batch = sizes(place)
    dit = build(size, place.device, checkpoints=False).eval()
    words, negative = (text_of(1, batch.words, size, place.device) for _ in range(2))
    sound = dit.encode_audio(sound_of(1, batch.latents, place.device), batch.latents, FPS, TEMPORAL_FACTOR)
    image = torch.randn(1, CHANNELS, 1, batch.height, batch.width, device=place.device)
    sampler = PyramidSampler(video_steps=(STEPS,) * 3)
    run = Run(dit, Conditions(words, negative, sound), image, batch.latents, sampler)
    first_ms, first = 0.0, torch.empty(0)
    with torch.autocast(place.backend, torch.bfloat16):
        for way in WAYS:
            made = run(way)  # a warm-up as well
            spent = milliseconds(timed(partial(run, way), place, rounds=2, warm_ups=0))
            first_ms, first = first_ms or spent, first if len(first) else made
            apart = relative_difference([made], [first])
            _note(notes, way.name, ms=spent, of_first=spent / first_ms, difference=apart)


def measure_syncphony_training(place: Place, notes: Notes) -> None:
    """A training step of four clips with and without the savings that it shares with sampling."""
    size, batch = sizes(place)
    step, first_ms = SyncphonyStep(size, batch, place), 0.0
    for way in OF_TRAINING:
        with as_it_is(way, step.dit):
            spent = milliseconds(timed(step, place, rounds=3))
        first_ms = first_ms or spent
        _note(notes, way.name, ms=spent, of_first=spent / first_ms)


def measure_harmony_drivers(place: Place, notes: Notes) -> None:
    """Three steps of sampling at 480p, all layers: features of what drives kept from the first step on, or anew."""
    layers = 2 if place.is_rehearsal else LAYERS
    shapes = on_meta(layers, place, False, torch.bfloat16, driver_isolated=True)
    model = materialised(shapes.to(torch.bfloat16), place).eval()
    clean = torch.randn(1, VIDEO_CHANNELS, *clip_shape("480p", place), device=place.device)
    sound = torch.randn(1, AUDIO_CHANNELS, num_sound(place), device=place.device)
    prompts = [text(1, WORDS, TEXT_DIM, place) for _ in range(4)]
    conditions = JointConditions(
        video_text=ModalityText(prompts[0], negative=prompts[1]),
        audio_text=ModalityText(prompts[2], negative=prompts[3]),
        reference=torch.randn_like(sound),
        silence=sound[0],
        still=clean,
        clock=CLOCK,
    )
    sampled = Sampler(model, conditions, {"video": torch.randn_like(clean), "audio": torch.randn_like(sound)})
    for task in TASKS:
        ways = {way: partial(sampled, task, way == KEPT, STEPS) for way in (ANEW, KEPT)}
        made = {way: action() for way, action in ways.items()}
        spent = {way: milliseconds(timed(action, place, 2, 0)) for way, action in ways.items()}
        apart = relative_difference([made[KEPT]], [made[ANEW]])
        _note(notes, task.name, **{f"{way}_ms": ms for way, ms in spent.items()})
        _note(notes, task.name, of_anew=spent[KEPT] / spent[ANEW], difference=apart)


def measure_recomputation(place: Place, notes: Notes) -> None:
    """A step of Harmony at 480p with four of the thirty layers: activations kept, and computed again."""
    layers = 2 if place.is_rehearsal else 4
    notes.value(layers=layers)
    for policy in POLICIES:
        shapes = on_meta(layers, place, policy, torch.float32)
        spent, peak = _measured(HarmonyStep(materialised(shapes, place), "480p", place), place)
        _note(notes, f"recomputed {policy}", ms=spent, peak_gib=peak / GIB)


def measure_optimizers(place: Place, notes: Notes) -> None:
    """A step over Syncphony's trained weights: lists of tensors, one kernel, Muon, and moments of eight bits."""
    size, _ = sizes(place)
    shapes = [p.shape for p in build(size, "meta").parameters() if p.requires_grad]
    ways: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
        "foreach": partial(AdamW, foreach=True),
        "fused": partial(AdamW, fused=True),
        "muon": MuonAdamW,
    }
    if importlib.util.find_spec("torchao"):
        from torchao.optim import AdamW8bit

        ways["adamw8bit"] = AdamW8bit
    notes.value(parameters_m=sum(shape.numel() for shape in shapes) / 1e6)
    for name, make in ways.items():
        parameters = [nn.Parameter(torch.zeros(shape, device=place.device)) for shape in shapes]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer = make(parameters)
        spent, peak = _measured(optimizer.step, place, rounds=5)
        state = sum(state_bytes(value) for kept in optimizer.state.values() for value in kept.values())
        _note(notes, name, ms=spent, state_gib=state / GIB, peak_gib=peak / GIB)
        del optimizer, parameters, parameter


def _measured(action: Action, place: Place, rounds: int = 3) -> tuple[float, int]:
    """Milliseconds and the most bytes that the card holds meanwhile; none of a rehearsal's."""
    if not place.is_rehearsal:
        gc.collect()
        torch.cuda.empty_cache()
    timed(action, place, 1, warm_ups=1)  # compiles, and makes the optimizer's state
    if not place.is_rehearsal:
        torch.cuda.reset_peak_memory_stats(place.device)
    spent = milliseconds(timed(action, place, rounds, warm_ups=0))
    return spent, 0 if place.is_rehearsal else torch.cuda.max_memory_allocated(place.device)


def _note(notes: Notes, label: str, **figures: float) -> None:
    prefix = "".join(letter if letter.isalnum() else "_" for letter in label).replace("__", "_")
    notes.value(**{f"{prefix}_{name}": value for name, value in figures.items()})
