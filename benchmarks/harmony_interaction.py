"""Harmony's dual tower with the decoupled interaction against the same two towers side by side: time and FLOPs.

::

    python -m benchmarks.harmony_interaction                                  # narrow towers, a minute on one thread
    python -m benchmarks.harmony_interaction --size 704p --device cuda --bfloat16

FLOPs (2 per multiply-add of linear layers and attention, masked pairs included) are counted by torch on the meta
device. A second table counts all thirty layers at full width, where the interaction is held against the formula and
against the video tower alone.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harmony_sizes import (
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
from components.contracts import MODALITIES, Modality

GIGA, TERA = 1e9, 1e12
UNCOUPLED, COUPLED = "towers side by side", "with the interaction"
WIDTHS = (1024, 3072)


class Pass:
    """Forward and backward passes of one model on one batch."""

    def __init__(self, size: HarmonySize, coupled: bool, args: argparse.Namespace) -> None:
        self.model: HarmonyTransformer = build_harmony(size, coupled, args.device, dtype_of(args))
        self.given = random_inputs(size, args.device, dtype_of(args))

    def run(self, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Both velocities; with ``train`` also their gradients, which are dropped."""
        with torch.set_grad_enabled(train):
            v_v, v_a = self.model(**self.given)
            if train:
                (v_v.float().square().mean() + v_a.float().square().mean()).backward()
                self.model.zero_grad(set_to_none=True)
        return v_v.detach(), v_a.detach()


def count_flops(size: HarmonySize, coupled: bool, train: bool = False, active: Sequence[Modality] = MODALITIES) -> int:
    """FLOPs of a forward pass (``train``: and its backward pass), counted on the meta device by torch.

    One and two layers are counted: all but the last cost the same.
    """
    counts = []
    for layers in (1, 2):
        part = replace(size, layers=layers)
        model = build_harmony(part, coupled, "meta", torch.bfloat16)
        given = random_inputs(part, "meta", torch.bfloat16)
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(train):
            outputs = [out for out in model(**given, active=active) if out is not None]
            if train:
                torch.cat([out.flatten() for out in outputs]).sum().backward()
        counts.append(int(counter.get_total_flops()))
    return counts[0] + (size.layers - 1) * (counts[1] - counts[0])


def flops_by_formula(size: HarmonySize) -> int:
    """FLOPs of the interaction in all layers, forward.

    Either direction projects queries and outputs of its own stream and keys and values of the other one; the style
    alignment (none in the last layer) projects the reference's, and keys and values of the video for itself.
    """
    one_projection = 2 * size.dim * size.interaction_width
    frame_level = 2 * one_projection * 2 * (size.video + size.audio)
    frame_level += 2 * 4 * size.interaction_width * size.video * size.audio
    style = 2 * one_projection * (size.reference + size.video)
    style += 4 * size.interaction_width * size.reference * size.video
    return size.clips * (size.layers * frame_level + (size.layers - 1) * style)


def full_size(names: Sequence[str]) -> list[list[str]]:
    """Rows of the second table."""
    rows = []
    for name in names:
        size = replace(SIZES[name], layers=FULL_DEPTH)
        video, towers = count_flops(size, False, active=("video",)), count_flops(size, False)
        for width in WIDTHS:
            sized = replace(size, interaction_width=width)
            added = count_flops(sized, True) - towers
            cells = (video, towers, flops_by_formula(sized), added)
            row = [f"{name}, {size.video:,} tokens, width {width}", *(f"{flops / TERA:,.2f}" for flops in cells)]
            rows.append([*row, f"+{100 * added / video:.1f} %", f"+{100 * added / towers:.1f} %"])
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_arguments(parser, full_table=True)
    args = parser.parse_args(argv)
    size = size_of(args)
    passes = {UNCOUPLED: Pass(size, False, args), COUPLED: Pass(size, True, args)}
    actions: dict[str, Callable[[], object]] = {
        f"{name}{train}": partial(one.run, train) for train in (False, True) for name, one in passes.items()
    }
    seconds = interleaved(actions, args, args.device)
    flops = {f"{name}{train}": count_flops(size, name == COUPLED, train) for train in (False, True) for name in passes}

    print(machine_facts(args.device, str(dtype_of(args)).removeprefix("torch.")))
    print(size)
    rows = []
    for name in passes:
        row = [name]
        for train in (False, True):
            key = f"{name}{train}"
            row += [f"{1000 * statistics.median(seconds[key]):.1f} ms", f"{flops[key] / GIGA:,.1f} GFLOP"]
        rows.append(row)
    row = ["ratio with / without"]
    for train in (False, True):
        pair = f"{COUPLED}{train}", f"{UNCOUPLED}{train}"
        row += [f"{ratio(seconds[pair[0]], seconds[pair[1]]):.2f}", f"{flops[pair[0]] / flops[pair[1]]:.2f}"]
    print_table([clock_name(args), "forward", "", "with backward", ""], [*rows, row])
    one, other = (passes[name].run(False) for name in passes)
    difference = max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))
    print(f"a fresh interaction changes the velocities by at most {difference:.1e}")
    if args.full:
        print(f"\nforward pass of {FULL_DEPTH} layers at full width, TFLOP; {SIZES['704p'].reference} reference tokens")
        header = ["121 frames", "video tower", "both towers", "interaction: formula", "counted"]
        print_table([*header, "of video tower", "of both"], full_size(args.full))


if __name__ == "__main__":
    main()
