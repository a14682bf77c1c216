"""How much of the machine the diffusion transformer uses: FLOP/s of its forward pass against plain matrix products.

::

    python -m benchmarks.dit_forward                                    # a narrow model: a minute on one thread
    python -m benchmarks.dit_forward --train                            # with backward pass, early blocks frozen
    python -m benchmarks.dit_forward --public --joint-blocks 1 --single-blocks 1
    python -m benchmarks.dit_forward --flops                            # full experiments, counted without computing

The batch is an autoregressive training batch: four columns with history. FLOPs (2 per multiply-add of linear layers and
attention, masked pairs included) are counted on the meta device. The matrix products run in the same rounds; the best
of a few sizes is the peak rate. With ``--profile`` a table says which operations take the time.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.matrix_rate import best_rate, data_sheet_rate, matrix_products
from benchmarks.measure import add_timing_arguments, clock_name, interleaved, machine_facts, print_table
from benchmarks.pyramid_batch import (
    PUBLIC,
    BatchSize,
    ModelSize,
    build_dit,
    num_text_tokens,
    num_video_tokens,
    training_columns,
)
from components.backbones.pyramid_flow.checkpoint import Variant
from components.backbones.syncphony.model import SyncphonyDiT

TERA, GIGA = 1e12, 1e9
REFERENCE_TFLOP: dict[Variant, float] = {"miniflux": 12.6, "sd3": 8.4}
"""Counted in the released code: forward pass of a batch of 4, 121 frames of 384x640, mean over all prefixes."""


@dataclass(frozen=True)
class Precision:
    """What weights are kept in (late and frozen ones), what products run in, and by which means."""

    weights: torch.dtype
    frozen: torch.dtype
    products: torch.dtype
    autocast: bool

    def context(self, device: str) -> AbstractContextManager[object]:
        """Autocast or nothing."""
        return torch.autocast(device.split(":")[0], self.products) if self.autocast else nullcontext()


PRECISIONS = {
    "float32": Precision(torch.float32, torch.float32, torch.float32, autocast=False),
    "autocast": Precision(torch.float32, torch.bfloat16, torch.bfloat16, autocast=True),  # as the experiments train
    "bfloat16": Precision(torch.bfloat16, torch.bfloat16, torch.bfloat16, autocast=False),
}


class Pass:
    """One forward pass of a training batch, and a backward pass through the late blocks if asked for."""

    def __init__(self, model: ModelSize, batch: BatchSize, precision: Precision, train: bool, device: str) -> None:
        self.dit: SyncphonyDiT = build_dit(model, device, precision.weights, precision.frozen)
        self.columns = training_columns(batch, model.variant, device)
        self.precision, self.train, self.device = precision, train, device

    def __call__(self) -> None:
        """Runs it."""
        with torch.set_grad_enabled(self.train), self.precision.context(self.device):
            velocities = self.dit(self.columns)
        if self.train:
            torch.autograd.backward(torch.stack([v.float().square().mean() for v in velocities]).mean())
            self.dit.zero_grad(set_to_none=True)


def count_flops(model: ModelSize, batch: BatchSize, train: bool = False) -> int:
    """FLOPs of a `Pass`. On the meta device, where the counter knows every operation (on a CPU it misses attention)."""
    run = Pass(model, batch, PRECISIONS["bfloat16"], train, "meta")
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def count_flops_by_block(model: ModelSize, batch: BatchSize) -> tuple[int, int]:
    """FLOPs of the forward pass, one block of each kind counted and multiplied, and the batch's video tokens."""
    # two of the kind that stands last: the last block changes only what is read
    kinds = (min(model.joint_blocks, 1 if model.single_blocks else 2), min(model.single_blocks, 2))
    small = replace(model, joint_blocks=kinds[0], single_blocks=kinds[1], first_late_block=0)
    run = Pass(small, batch, PRECISIONS["bfloat16"], False, "meta")
    with FlopCounterMode(display=False) as counter:
        run()
    counts = {name: sum(by_op.values()) for name, by_op in counter.get_flop_counts().items()}

    def of(block: str) -> int:
        return int(counts[f"SyncphonyDiT.backbone.{block}.0"])

    more = (model.joint_blocks - kinds[0]) * of("transformer_blocks") if kinds[0] else 0
    more += (model.single_blocks - kinds[1]) * of("single_transformer_blocks") if kinds[1] else 0
    return int(counter.get_total_flops()) + more, num_video_tokens(run.columns)


def full_experiments(prefixes: Sequence[int] | None) -> None:
    """Prints the FLOPs of the full models, mean over prefixes."""
    rows = []
    for variant, model in PUBLIC.items():
        recipe = BatchSize()
        for name, batch in (
            ("released recipe, 128 text tokens", recipe),
            ("image to video, padding cut to 40 text tokens", replace(recipe, words=40, shortest=2)),
        ):
            of_batch = [batch.with_prefix(n) for n in prefixes or range(batch.shortest, batch.latents + 1)]
            flops, tokens = zip(*(count_flops_by_block(model, one) for one in of_batch), strict=True)
            mean = statistics.mean(flops) / TERA
            reference = REFERENCE_TFLOP[variant]
            row = [f"{variant}, {name}", f"{statistics.mean(tokens):,.0f}", f"{mean:.2f}"]
            rows.append([*row, f"{reference:.1f}", f"{mean / reference:.3f}"])
    which = "all prefixes" if prefixes is None else f"prefixes {', '.join(map(str, prefixes))}"
    print(f"forward pass of 4 clips of 121 frames of 384x640, mean over {which}; reference: the released recipe's")
    print_table(["batch", "video tokens", "TFLOP", "reference", "of reference"], rows)


def sizes(args: argparse.Namespace) -> tuple[ModelSize, BatchSize]:
    """Model and batch of the command line."""
    public = PUBLIC[args.variant]
    narrow = ModelSize("miniflux", 6, 2, 4, 3) if args.variant == "miniflux" else ModelSize("sd3", 6, 6, 0, 3)
    base = public if args.public else narrow
    joint = base.joint_blocks if args.joint_blocks is None else args.joint_blocks
    single = base.single_blocks if args.single_blocks is None or args.variant == "sd3" else args.single_blocks
    late = (joint + single) // 2 if args.first_late_block is None else args.first_late_block
    clip = (args.latents, args.height, args.width)
    prefix = (args.latents + 1) // 2 if args.prefix is None else args.prefix
    return (
        ModelSize(args.variant, args.heads or base.heads, joint, single, late),
        BatchSize(args.clips, *clip, prefix=prefix, words=args.words),
    )


def measure(args: argparse.Namespace) -> None:
    """Runs and prints."""
    model, batch = sizes(args)
    flops = count_flops(model, batch, args.train)
    passes = {name: Pass(model, batch, PRECISIONS[name], args.train, args.device) for name in args.precision}
    dtypes = list(dict.fromkeys(PRECISIONS[name].products for name in args.precision))
    on_gpu = args.device.startswith("cuda")
    products = matrix_products(args.matrices or ([4096, 8192] if on_gpu else [512, 1024]), dtypes, args.device)
    actions: dict[str, Callable[[], object]] = dict(passes)
    actions.update({str(key): product for key, product in products.items()})
    seconds = interleaved(actions, args, args.device)
    rates = {key: seconds[str(key)] for key in products}

    columns = training_columns(batch, args.variant, "meta")
    video, text = num_video_tokens(columns), num_text_tokens(columns)
    print(machine_facts(args.device, ", ".join(args.precision)))
    parameters = sum(p.numel() for p in next(iter(passes.values())).dit.parameters())
    print(
        f"{args.variant}, width {64 * model.heads}, {model.num_blocks} blocks ({parameters / 1e6:,.1f} M parameters); "
        f"{video} video and {text} text tokens in four columns; {flops / GIGA:,.1f} GFLOP"
    )
    if args.train:
        print(f"forward and backward; blocks 0..{model.first_late_block - 1} frozen")
    rows = []
    for name in args.precision:
        dtype, time = PRECISIONS[name].products, statistics.median(seconds[name])
        peak, promised = best_rate(rates, dtype), data_sheet_rate(args.device, dtype)
        row = [name, f"{1000 * time:.1f} ms", f"{(video + text) / time:,.0f}/s", f"{flops / time / GIGA:,.1f} GFLOP/s"]
        row += [f"{peak / GIGA:,.1f} GFLOP/s", f"{flops / time / peak:.2f}"]
        rows.append([*row, "-" if promised is None else f"{flops / time / promised:.2f}"])
    header = ["step" if args.train else "forward", clock_name(args), "tokens", "rate", "best matrix product"]
    print_table([*header, "share of it", "of the data sheet"], rows)
    if args.profile:
        for name in args.precision:
            print()
            print_profile(name, passes[name], on_gpu)


def print_profile(name: str, action: Callable[[], object], on_gpu: bool, most: int = 12) -> None:
    """The operations that take the time."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        action()
        if on_gpu:
            torch.cuda.synchronize()
    times = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count)
        for event in profiler.key_averages()
    }
    total = sum(time for time, _ in times.values())
    longest = sorted(times.items(), key=lambda item: -item[1][0])[:most]
    rows = [[key[:60], str(count), f"{time / 1000:.1f} ms", f"{time / total:.2f}"] for key, (time, count) in longest]
    print_table([name, "calls", "own time", "share"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=list(PUBLIC), default="miniflux")
    parser.add_argument("--public", action="store_true", help="the public model's width and blocks")
    parser.add_argument("--heads", type=int, default=None, help="attention heads of 64 channels (6)")
    parser.add_argument("--joint-blocks", type=int, default=None, help="blocks with weights for text (2; sd3: 6)")
    parser.add_argument("--single-blocks", type=int, default=None, help="blocks that text and video share (4; sd3: 0)")
    parser.add_argument("--first-late-block", type=int, default=None, help="default: half of the blocks are late")
    parser.add_argument("--clips", type=int, default=4, help="clips per batch, a multiple of 4")
    parser.add_argument("--latents", type=int, default=8, help="latent frames per clip")
    parser.add_argument("--height", type=int, default=16, help="rows of the latents, a multiple of 8")
    parser.add_argument("--width", type=int, default=24, help="columns of the latents, a multiple of 8")
    parser.add_argument("--prefix", type=int, default=None, help="latents of the column at full resolution (half)")
    parser.add_argument("--words", type=int, default=40, help="text tokens")
    parser.add_argument("--precision", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--train", action="store_true", help="with backward pass through the late blocks")
    parser.add_argument("--matrices", type=int, nargs="+", default=None, help="sizes of the plain matrix products")
    parser.add_argument("--profile", action="store_true", help="which operations take the time")
    parser.add_argument("--flops", action="store_true", help="count the full experiments, compute nothing")
    parser.add_argument("--prefixes", type=int, nargs="+", default=None, help="with --flops: not all prefixes")
    parser.add_argument("--device", default="cpu")
    add_timing_arguments(parser, repeats=3)
    args = parser.parse_args(argv)
    if args.flops:
        full_experiments(args.prefixes)
    else:
        measure(args)


if __name__ == "__main__":
    main()
