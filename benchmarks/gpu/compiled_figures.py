"""What ``compile: {}`` gives on a card: the same gradients, and full-width training steps with and without it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from benchmarks.gpu.harmony_figures import TrainingStep as HarmonyStep
from benchmarks.gpu.harmony_figures import materialised, on_meta
from benchmarks.gpu.measuring import timed
from benchmarks.gpu.model_checks import HALF, SINGLE, Pass, harmony_pass, syncphony_pass
from benchmarks.gpu.rows import Notes, Place, milliseconds
from benchmarks.gpu.small_models import exact_products
from benchmarks.gpu.syncphony_figures import TrainingStep as SyncphonyStep
from benchmarks.gpu.syncphony_figures import sizes
from components.backbones.compilation import CompileConfig, compile_blocks

HARMONY_LAYERS = 4


def check_compiled(place: Place, notes: Notes) -> None:
    """Outputs, losses and gradients of compiled blocks against eager ones, in float32 and under autocast."""
    torch.compiler.reset()
    counters.clear()
    # in a rehearsal without inductor, whose compiler takes minutes on a CPU
    config = CompileConfig(backend="aot_eager" if place.is_rehearsal else "inductor")
    passes: dict[str, Callable[..., Pass]] = {"miniflux": partial(syncphony_pass, "miniflux"), "harmony": harmony_pass}
    with exact_products():
        for name, run in passes.items():
            for half in (False, True):
                eager, compiled = (run(place.device, torch.float32, half, compile=one) for one in (None, config))
                label = f"{name} {'bfloat16' if half else 'float32'}"
                compiled.compare(eager, label, HALF if half else SINGLE, notes)
    notes.value(graphs=counters["stats"]["unique_graphs"])
    notes.require("something was compiled", counters["stats"]["unique_graphs"] > 0)


def measure_compiled_syncphony(place: Place, notes: Notes) -> None:
    """The training step of `measure_syncphony_step`."""
    size, batch = sizes(place)
    step = SyncphonyStep(size, batch, place)
    _eager_and_compiled(step, list(step.dit.backbone.blocks), place, notes)


def measure_compiled_harmony(place: Place, notes: Notes) -> None:
    """The stage-3 step at 480x832x121 with a few layers, every one of which is the same work."""
    layers = 2 if place.is_rehearsal else HARMONY_LAYERS
    step = HarmonyStep(materialised(on_meta(layers, place, True, torch.float32), place), "480p", place)
    notes.value(layers=layers)
    _eager_and_compiled(step, list(step.model.layers), place, notes)


def _eager_and_compiled(step: Callable[[], Tensor], blocks: list[nn.Module], place: Place, notes: Notes) -> None:
    torch.compiler.reset()
    counters.clear()
    eager = milliseconds(timed(step, place, rounds=5, warm_ups=2))
    notes.value(eager_ms=eager, eager_peak_gib=_peak_gib(place))
    compile_blocks(blocks, CompileConfig(backend="aot_eager" if place.is_rehearsal else "inductor"))
    begin = time.perf_counter()
    notes.require("the loss is finite", bool(step().isfinite()))
    notes.value(first_step_s=time.perf_counter() - begin)
    # the second step may compile once more, for all lengths
    compiled = milliseconds(timed(step, place, rounds=5, warm_ups=2, most_s=15.0))
    notes.value(compiled_ms=compiled, ratio=compiled / eager, compiled_peak_gib=_peak_gib(place))
    notes.value(graphs=counters["stats"]["unique_graphs"])


def _peak_gib(place: Place) -> float | None:
    """Since the last call; None in a rehearsal."""
    if place.is_rehearsal:
        return None
    peak = torch.cuda.max_memory_allocated(place.device) / 2**30
    torch.cuda.reset_peak_memory_stats(place.device)
    return peak
