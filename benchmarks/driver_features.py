"""Harmony's features of a modality that drives: kept from the first sampling step on, against computed in every step.

::

    python -m benchmarks.driver_features                                # narrow towers, a minute on one thread
    python -m benchmarks.driver_features --size 480p --device cuda --bfloat16 --full

With ``driver_isolated`` a clean modality receives nothing from the noisy one. Both ways are the sampler's own
(``keep_drivers``), from the same noise; a second table counts FLOPs at full width on the meta device (2 per
multiply-add of linear layers and attention), where all steps but the first cost the same.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harmony_sizes import (
    CLOCK,
    FULL_DEPTH,
    SIZES,
    HarmonySize,
    add_size_arguments,
    build_harmony,
    dtype_of,
    random_inputs,
    size_of,
)
from benchmarks.measure import clock_name, interleaved, machine_facts, print_table, ratio
from components.backbones.harmony.model import HarmonyTransformer
from components.guidance.sync_cfg import Guidance, SyncCFG
from components.samplers.joint_sampler import JointConditions, JointSampler, ModalityText
from components.schedules.flow_schedule import FlowSchedule

KEPT, ANEW = "kept", "anew"


@dataclass(frozen=True)
class Task:
    """What is sampled, and how it is guided; ``given`` is the modality that is there already."""

    name: str
    guidance: Guidance
    given: str | None = None


TASKS = (
    Task("joint, sync", "sync"),
    Task("joint, text+sync", "text+sync"),
    Task("sound of a video, text", "text", "video"),
    Task("video of a sound, text", "text", "audio"),
)


@dataclass(frozen=True)
class Sampler:
    """Clips that are sampled for any task.

    Attributes:
        model: whose drivers are isolated.
        conditions: of all tasks.
        latents: by modality: the noise it starts from, or what is given of it.
    """

    model: HarmonyTransformer
    conditions: JointConditions
    latents: Mapping[str, Tensor]

    def __call__(self, task: Task, keep: bool, steps: int, progress: Callable[[int], object] | None = None) -> Tensor:
        """What was generated, flat."""
        start: dict[str, Any] = {
            side if side == task.given else f"{side}_noise": latents for side, latents in self.latents.items()
        }
        sampler = JointSampler(steps, FlowSchedule("euler"), guidance=SyncCFG(task.guidance), keep_drivers=keep)
        made = sampler.sample(self.model, self.conditions, **start, progress=progress)
        both = dict(zip(("video", "audio"), made, strict=True))
        return torch.cat([out.flatten() for side, out in both.items() if out is not None and side != task.given])


def sampler_of(size: HarmonySize, device: str, dtype: torch.dtype) -> Sampler:
    """Clips and towers of a size."""
    model = build_harmony(size, True, device, dtype, trained=device != "meta", driver_isolated=True).eval()
    given, other = (random_inputs(size, device, dtype, seed) for seed in (1, 2))
    conditions = JointConditions(
        video_text=ModalityText(given["text_v"], negative=other["text_v"]),
        audio_text=ModalityText(given["text_a"], negative=other["text_a"]),
        reference=given["z_r"],
        silence=other["z_a"][0],
        still=other["z_v"],
        clock=CLOCK,
    )
    return Sampler(model, conditions, {"video": given["z_v"], "audio": given["z_a"]})


@cache
def count_flops(size: HarmonySize, task: Task, keep: bool, steps: int) -> int:
    """FLOPs of sampling in so many steps: one and two layers are counted, all but the last cost the same."""
    counts = []
    for layers in (1, 2):
        totals = [0]
        with FlopCounterMode(display=False) as counter:
            sampled = sampler_of(replace(size, layers=layers), "meta", torch.bfloat16)
            sampled(task, keep, 2, partial(_note, totals, counter))
        first, later = (after - before for before, after in pairwise(totals))
        counts.append(first + (steps - 1) * later)
    return counts[0] + (size.layers - 1) * (counts[1] - counts[0])


def _note(totals: list[int], counter: FlopCounterMode, _: int) -> None:
    totals.append(int(counter.get_total_flops()))


def full_size(names: Sequence[str], steps: int) -> list[list[str]]:
    """Rows of the second table."""
    rows = []
    for task in TASKS:
        row = [task.name]
        for name in names:
            size = replace(SIZES[name], layers=FULL_DEPTH)
            kept, anew = (count_flops(size, task, keep, steps) for keep in (True, False))
            row += [f"{anew / 1e12:,.0f}", f"{kept / 1e12:,.0f}", f"{kept / anew:.3f}"]
        rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_arguments(parser, full_table=True)
    parser.add_argument("--steps", type=int, default=10, help="of the first table")
    parser.add_argument("--full-steps", type=int, default=40, help="of the second table")
    args = parser.parse_args(argv)
    size = size_of(args)
    sampled = sampler_of(size, args.device, dtype_of(args))
    actions: dict[str, Callable[[], object]] = {}
    differences: dict[Task, float] = {}
    for task in TASKS:
        ways = {way: partial(sampled, task, way == KEPT, args.steps) for way in (ANEW, KEPT)}
        anew, kept = (ways[way]() for way in (ANEW, KEPT))
        differences[task] = float((anew - kept).abs().max())
        actions |= {f"{task.name}, {way}": action for way, action in ways.items()}
    seconds = interleaved(actions, args, args.device)

    print(machine_facts(args.device, str(dtype_of(args)).removeprefix("torch.")))
    print(f"{size}; {args.steps} steps")
    rows = []
    for task in TASKS:
        anew_s, kept_s = (seconds[f"{task.name}, {way}"] for way in (ANEW, KEPT))
        flops = [count_flops(size, task, keep, args.steps) for keep in (True, False)]
        times = [f"{1000 * statistics.median(times):.0f} ms" for times in (anew_s, kept_s)]
        shares = [f"{ratio(kept_s, anew_s):.2f}", f"{flops[0] / flops[1]:.3f}"]
        rows.append([task.name, *times, *shares, f"{differences[task]:.1e}"])
    print_table(["", f"anew ({clock_name(args)})", KEPT, "time", "FLOPs", "largest difference"], rows)
    if args.full:
        print(f"\n{FULL_DEPTH} layers at full width, {args.full_steps} steps, TFLOP")
        header = [f"{name}, {what}" for name in args.full for what in (ANEW, KEPT, "ratio")]
        print_table(["", *header], full_size(args.full, args.full_steps))


if __name__ == "__main__":
    main()
