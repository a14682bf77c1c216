"""Frame-level attention: a banded mask against no window at all, FlexAttention and gathered windows.

::

    python -m benchmarks.frame_attention                                      # a small clip, seconds on one thread
    python -m benchmarks.frame_attention --size 480p                          # 12,090 video and 157 audio tokens
    python -m benchmarks.frame_attention --compile                            # FlexAttention compiled on a CPU too
    python -m benchmarks.frame_attention --size 704p --device cuda --bfloat16

Attention alone, without the projections around it. Memory is the most bytes held at a time beside queries, keys,
values and window tables; on a CPU it is counted storage by storage, without the working memory inside single kernels.
The tables (masks, indices, rotary tables) serve all layers and steps; they are those of both directions.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import get_args

import torch
from torch import Tensor
from torch._dynamo.exc import Unsupported

from benchmarks.harmony_sizes import CLOCK, HarmonySize, add_size_arguments, dtype_of, size_of
from benchmarks.measure import clock_name, interleaved, machine_facts, print_table, ratio
from components.backbones.harmony.frame_band import Attend, BandConfig, Kernel, frame_bands
from components.counting.live_memory import with_peak_bytes

MIB = 2**20
GLOBAL = "no window"


@dataclass
class Way:
    """One way to attend in one direction.

    Attributes:
        attend: queries, keys and values to the result.
        qkv: what it is run on.
        tables: bytes held while the windows are built.
        is_counted: the memory of a call can be found; FlexAttention's on a CPU cannot.
        failures: why a pass (forward: False, with backward: True) cannot run here.
    """

    attend: Attend
    qkv: list[Tensor]
    tables: int
    is_counted: bool
    failures: dict[bool, str] = field(default_factory=dict)

    def run(self, train: bool) -> Tensor:
        """Attention, with ``train`` followed by its backward pass."""
        if not train:
            with torch.no_grad():
                return self.attend(*self.qkv)
        qkv = [x.detach().requires_grad_() for x in self.qkv]
        out = self.attend(*qkv)
        out.float().square().sum().backward()
        return out.detach()

    def check(self, train: bool) -> None:
        """Runs once; notes the reason if this device cannot."""
        try:
            with warnings.catch_warnings(action="ignore"):  # the table says what is not compiled
                self.run(train)
        except Unsupported:  # the compiler's own words say little
            with torch.compiler.set_stance("force_eager"):
                self.check(train)
            self.failures.setdefault(train, "cannot be compiled")
        except RuntimeError as error:
            self.failures[train] = str(error).strip().partition("\n")[0]


def ways(args: argparse.Namespace, size: HarmonySize) -> dict[tuple[str, str], Way]:
    """All ways by direction and name."""
    generator = torch.Generator().manual_seed(0)
    heads = size.interaction_width // size.head_dim

    def normal(tokens: int) -> Tensor:
        shape = (size.clips, heads, tokens, size.head_dim)
        return torch.randn(shape, generator=generator).to(args.device, dtype_of(args))

    video, audio = ([normal(tokens) for _ in range(3)] for tokens in (size.video, size.audio))
    qkv = {"video from audio": [video[0], *audio[1:]], "audio from video": [audio[0], *video[1:]]}
    configs = {GLOBAL: BandConfig(None)} | {kernel: BandConfig(args.half_window, kernel) for kernel in args.kernels}
    found = {}
    for name, config in configs.items():
        frame_bands.cache_clear()  # or the tables are there already
        build = partial(frame_bands, CLOCK, "linear", config, size.shape, size.head_dim, torch.device(args.device))
        bands, tables = with_peak_bytes(build, args.device)
        on_cpu = name == "flex" and not args.device.startswith("cuda")
        shown = name if not on_cpu else "flex, compiled" if args.compile else "flex, not compiled"
        for (direction, given), band in zip(qkv.items(), bands, strict=True):
            # with fullgraph, a backward pass that fails does not silently end compilation
            attend = torch.compile(band.attend, fullgraph=True) if on_cpu and args.compile else band.attend
            found[direction, shown] = Way(attend, given, tables, is_counted=not on_cpu)
    return found


def table(args: argparse.Namespace, found: dict[tuple[str, str], Way]) -> list[list[str]]:
    """Times, memory and agreement of every way; directions in blocks."""
    actions: dict[str, Callable[[], object]] = {}
    for (direction, name), way in found.items():
        for train in (False, True):
            way.check(train)
            if train not in way.failures:
                actions[f"{direction}, {name}, {train}"] = partial(way.run, train)
    seconds = interleaved(actions, args, args.device)

    rows = []
    for direction in dict.fromkeys(direction for direction, _ in found):
        names = [name for where, name in found if where == direction]
        exact = found[direction, names[1]]
        for name, way in ((name, way) for (where, name), way in found.items() if where == direction):
            row = [f"{direction}: {name}"]
            for train in (False, True):
                times = seconds.get(f"{direction}, {name}, {train}")
                if times is None:
                    row += ["not on this device", "-"]
                else:
                    of_global = ratio(times, seconds[f"{direction}, {GLOBAL}, {train}"])
                    row += [f"{1000 * statistics.median(times):.2f} ms", f"{of_global:.2f}"]
            row += ["-", f"{way.tables / MIB:.2f} MiB", "-"]
            if False not in way.failures:
                if way.is_counted:
                    row[-3] = f"{with_peak_bytes(partial(way.run, False), args.device)[1] / MIB:.2f} MiB"
                if name not in names[:2]:
                    row[-1] = f"{float((way.run(False) - exact.run(False)).abs().max()):.1e}"
            rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_arguments(parser)
    parser.add_argument("--half-window", type=float, default=1.0, help="in video latents")
    parser.add_argument(
        "--kernels",
        nargs="+",
        choices=get_args(Kernel),
        default=list(get_args(Kernel)),
        help="the others are compared with the first",
    )
    parser.add_argument("--compile", action="store_true", help="compile FlexAttention on a CPU too (half a minute)")
    args = parser.parse_args(argv)
    size = size_of(args)
    found = ways(args, size)
    rows = table(args, found)

    print(machine_facts(args.device, str(dtype_of(args)).removeprefix("torch.")))
    share = float(CLOCK.relation(size.latents, size.audio, args.half_window, "linear").float().mean())
    print(
        f"{size.clips} x {size.video:,} video and {size.audio} audio tokens, width {size.interaction_width}; windows "
        f"of {args.half_window:g} latents on either side hold {100 * share:.0f} % of all pairs"
    )
    header = ["", f"forward ({clock_name(args)})", "of no window", "with backward", "of no window"]
    print_table([*header, "memory", "tables", f"difference to {args.kernels[0]}"], rows)
    reasons = [
        f"{name}, {'with backward' if train else 'forward'}: {reason}"
        for (_, name), way in found.items()
        for train, reason in way.failures.items()
    ]
    for line in dict.fromkeys(reasons):
        print(line)


if __name__ == "__main__":
    main()
