"""What judging a clip of 5 s takes, judge by judge: parameters, FLOPs and memory; 150 such clips end to end.

::

    python -m benchmarks.metrics                              # counted: minutes on one thread
    python -m benchmarks.metrics --only desync wer            # some of them
    python -m benchmarks.metrics --measure --device cuda      # seconds and peaks beside the counts

Networks have their public sizes and random weights in float32 (`benchmarks.judge_networks`). FLOPs are 2 per
multiply-add of matrix products, convolutions and attention. Memory is what stays on the device with ``offload: true``:
the weights of one judge and the most that it holds while it computes a portion of a clip; the clip's own pixels
(0.56 GiB in float32) come on top. It is counted storage by storage, without the working memory within kernels; on a
CUDA device it is measured.

``--measure`` runs one portion after one that warms up, and multiplies; judges of more than ``--at-most`` TFLOP a
portion are counted alone.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.judge_networks import FPS, FRAMES, HEIGHT, JUDGES, SAMPLE_RATE, WIDTH, Judge
from benchmarks.measure import add_timing_arguments, clock_name, interleaved, machine_facts, print_table
from components.counting.live_memory import with_peak_bytes
from components.errors import InputError

TERA, MEGA, GIB = 1e12, 1e6, 2**30
NOT_COUNTED = "-"


@dataclass(frozen=True)
class Cost:
    """What a judge takes.

    Attributes:
        parameters: of its networks.
        weight_bytes: of parameters and buffers.
        portion_flops: of one portion of a clip.
        peak_bytes: of tensors held at a time while a portion is computed.
    """

    parameters: int
    weight_bytes: int
    portion_flops: int
    peak_bytes: int

    @property
    def memory_bytes(self) -> int:
        """Weights and what is held beside them."""
        return self.weight_bytes + self.peak_bytes


@dataclass(frozen=True)
class Measured:
    """Seconds of a clip, and bytes held beside the weights while a portion is computed."""

    seconds: float
    peak_bytes: int


def named(only: Sequence[str] | None) -> list[Judge]:
    """The judges that have one of those words in their entries or network; all where none is given.

    Raises:
        InputError: if a word names none.
    """
    if only is None:
        return list(JUDGES)
    for word in only:
        if not any(word in f"{judge.entries} {judge.network}" for judge in JUDGES):
            raise InputError(f"--only names '{word}', which is no judge's; run without it for the list")
    return [judge for judge in JUDGES if any(word in f"{judge.entries} {judge.network}" for word in only)]


def built(judge: Judge, device: str) -> nn.Module:
    """Its network with random weights."""
    with torch.device(device):
        return judge.build().eval().requires_grad_(False)


def cost(judge: Judge) -> Cost | None:
    """What it takes, without computing where shapes suffice; None for what PyTorch does not compute."""
    if not judge.counted:
        return None
    device = "meta" if judge.shapes_suffice else "cpu"
    net = built(judge, device)
    weights = list(net.parameters())
    with torch.device(device), FlopCounterMode(display=False) as counter:
        _, peak = with_peak_bytes(lambda: judge.run(net), device)
    return Cost(
        parameters=sum(weight.numel() for weight in weights),
        weight_bytes=sum(tensor.nbytes for tensor in (*weights, *net.buffers())),
        portion_flops=int(counter.get_total_flops()),
        peak_bytes=peak,
    )


def measured(judge: Judge, args: argparse.Namespace) -> Measured:
    """Runs a portion with random weights."""
    torch.manual_seed(0)
    net = built(judge, args.device)

    def run() -> object:
        with torch.device(args.device):
            return judge.run(net)

    seconds = interleaved({"": run}, args, args.device)[""]
    _, peak = with_peak_bytes(run, args.device)
    return Measured(judge.portions * statistics.median(seconds), peak)


def row_of(judge: Judge, found: Cost | None) -> list[str]:
    """A judge's counts."""
    if found is None:
        return [judge.entries, judge.network, *[NOT_COUNTED] * 4]
    return [
        judge.entries,
        judge.network,
        f"{found.parameters / MEGA:.1f}",
        f"{judge.portions * found.portion_flops / TERA:.3g}",
        f"{found.weight_bytes / GIB:.2f}",
        f"{found.memory_bytes / GIB:.2f}",
    ]


def report(judges: Sequence[Judge], args: argparse.Namespace) -> None:
    """Counts, measures where asked to, and prints."""
    print(f"a clip of {FRAMES} frames {HEIGHT}x{WIDTH} at {FPS} fps, {SAMPLE_RATE} Hz; float32")
    if args.measure:
        print(f"measured on {machine_facts(args.device, 'float32')}")
    rows, costs, times = [], [], []
    for judge in judges:
        found = cost(judge)
        row = row_of(judge, found)
        if found is not None:
            costs.append((judge, found))
        if args.measure:
            small = found is None or found.portion_flops <= args.at_most * TERA
            seen = measured(judge, args) if small else None
            times += [] if seen is None else [seen.seconds]
            row += [NOT_COUNTED] * 2 if seen is None else [f"{seen.seconds:.2f} s", f"{seen.peak_bytes / GIB:.2f}"]
        rows.append(row)
    header = ["entries", "network", "million parameters", "TFLOP a clip", "GiB of weights", "GiB with activations"]
    print_table([*header, *([clock_name(args), "GiB beside weights"] if args.measure else [])], rows)
    print_totals(costs, args)
    if args.measure:
        print(f"{len(times)} of {len(rows)} measured: {args.clips} clips take {_time(args.clips * sum(times))}")


def print_totals(costs: Sequence[tuple[Judge, Cost]], args: argparse.Namespace) -> None:
    """All clips end to end, and the largest judge."""
    if not costs:
        return
    flops = args.clips * sum(judge.portions * found.portion_flops for judge, found in costs)
    time = _time(flops / (args.tflops * TERA))
    print(f"{args.clips} clips by all that is counted: {flops / TERA:,.0f} TFLOP, {time} at {args.tflops:g} TFLOP/s")
    judge, found = max(costs, key=lambda pair: pair[1].memory_bytes)
    print(f"the largest, {judge.network}, holds {found.memory_bytes / GIB:.2f} GiB")


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds:.1f} s"


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    """Counts and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=None, help="words in the names of the judges that are wanted")
    parser.add_argument("--clips", type=int, default=150, help="clips of the estimate")
    parser.add_argument("--tflops", type=float, default=20.0, help="TFLOP/s that the device keeps up in float32")
    parser.add_argument("--measure", action="store_true", help="run the networks, too")
    parser.add_argument("--at-most", type=float, default=1.0, help="TFLOP of a portion that is measured")
    parser.add_argument("--device", default="cpu", help="of --measure")
    add_timing_arguments(parser, repeats=1)
    args = parser.parse_args(argv)
    try:
        report(named(args.only), args)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
