"""Wan's blocks as we run them against diffusers' model: time, memory and agreement.

::

    python -m benchmarks.modulation                                     # a narrow tower, half a minute on one thread
    python -m benchmarks.modulation --autocast                          # bf16-mixed
    python -m benchmarks.modulation --size 480p --device cuda --bfloat16

Wan2.2 tells every token its own timestep, though all tokens of a latent frame share one; ours is modulated per latent
frame, and its attention has other norms, rotations and (under autocast on a CPU) precision inside, see
`components.backbones.wan.normed_heads`. Both ways run the same Wan tower with the same weights. Memory is the most
bytes held at a time beside weights and input; on a CPU it is counted storage by storage, without the working memory
inside single kernels. A second table counts one layer at full width on the meta device, with attention counted as fused
kernels keep it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harmony_sizes import SIZES, HarmonySize, add_size_arguments, dtype_of, random_inputs, size_of
from benchmarks.measure import clock_name, interleaved, machine_facts, print_table, ratio
from components.backbones.harmony.model import HarmonyTransformer
from components.backbones.wan.model import WanTower
from components.counting.live_memory import with_peak_bytes
from components.counting.saved_activations import fused_attention, saved_bytes

MIB, GIB = 2**20, 2**30
PER_TOKEN, PER_FRAME = "per token (diffusers)", "per latent frame"


class Towers:
    """Both ways to run one Wan tower, on a batch whose first frame is given."""

    def __init__(self, size: HarmonySize, device: str, dtype: torch.dtype, autocast: bool = False) -> None:
        from diffusers import WanTransformer3DModel

        self.precision: AbstractContextManager[object] = nullcontext()
        if autocast:
            self.precision = torch.autocast(torch.device(device).type, torch.bfloat16)
        torch.manual_seed(0)
        with torch.device(device):
            tower = WanTower(**size.tower).to(dtype)
            stock: Any = WanTransformer3DModel(**{k: v for k, v in tower.config.items() if k != "text_len"})
        stock.load_state_dict(tower.state_dict(), assign=True)  # the same tensors
        self.stock = stock
        self.ours = HarmonyTransformer(tower)
        self.given = {k: v for k, v in random_inputs(size, device, dtype).items() if k in ("z_v", "t_v", "text_v")}
        self.given["first_frame"] = torch.ones(size.clips, dtype=torch.bool, device=device)
        per_frame = self.given["t_v"][:, None].repeat(1, size.latents)
        per_frame[:, 0] = 0
        self.per_token = per_frame.repeat_interleave(size.rows * size.columns, dim=1)

    def forward(self, way: str) -> Tensor:
        """The velocity, with whatever gradients are on."""
        if way == PER_FRAME:
            velocity: Tensor = self.ours(z_a=None, **self.given, active=("video",))[0]
        else:
            velocity = self.stock(self.given["z_v"], self.per_token, self.given["text_v"].tokens, return_dict=False)[0]
        return velocity

    def run(self, way: str, train: bool) -> Tensor:
        """Forward pass; with ``train`` also the gradients of the weights, which are dropped."""
        with torch.set_grad_enabled(train):
            with self.precision:
                velocity = self.forward(way)
            if train:
                velocity.float().square().mean().backward()
                self.stock.zero_grad(set_to_none=True)
        return velocity.detach()

    def kept(self, way: str) -> int:
        """Bytes that autograd keeps of a forward pass."""
        return saved_bytes(partial(self.forward, way), [self.stock])[0]


def full_size(names: Sequence[str]) -> list[list[str]]:
    """Rows of the second table."""
    rows = []
    for name in names:
        towers = Towers(replace(SIZES[name], layers=1), "meta", torch.bfloat16)
        with fused_attention():
            for way in (PER_TOKEN, PER_FRAME):
                peak = with_peak_bytes(partial(towers.run, way, False), "meta")[1]
                cells = [f"{count / GIB:.2f} GiB" for count in (peak, towers.kept(way))]
                rows.append([f"{name}, {way}", f"{SIZES[name].video:,}", *cells])
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_arguments(parser, full_table=True)
    parser.add_argument("--autocast", action="store_true", help="compute in bfloat16 with weights as they are")
    args = parser.parse_args(argv)
    size = size_of(args)
    towers = Towers(size, args.device, dtype_of(args), args.autocast)
    actions: dict[str, Callable[[], object]] = {
        f"{way}{train}": partial(towers.run, way, train) for train in (False, True) for way in (PER_TOKEN, PER_FRAME)
    }
    seconds = interleaved(actions, args, args.device)
    bytes_of = {key: with_peak_bytes(action, args.device)[1] for key, action in actions.items()}
    kept = {way: towers.kept(way) for way in (PER_TOKEN, PER_FRAME)}
    one, other = (towers.run(way, False) for way in (PER_TOKEN, PER_FRAME))

    precision = str(dtype_of(args)).removeprefix("torch.") + (", bfloat16 autocast" if args.autocast else "")
    print(machine_facts(args.device, precision))
    clips = f"{size.clips} clips of {size.video:,} tokens in {size.latents} latent frames"
    print(f"{size.layers} layers of width {size.dim}; {clips}")
    rows, last = [], ["ratio frame / token"]
    for way in (PER_TOKEN, PER_FRAME):
        row = [way]
        for train in (False, True):
            key = f"{way}{train}"
            row += [f"{1000 * statistics.median(seconds[key]):.1f} ms", f"{bytes_of[key] / MIB:.1f} MiB"]
        rows.append([*row, f"{kept[way] / MIB:.1f} MiB"])
    for train in (False, True):
        ours, stock = f"{PER_FRAME}{train}", f"{PER_TOKEN}{train}"
        last += [f"{ratio(seconds[ours], seconds[stock]):.2f}", f"{bytes_of[ours] / bytes_of[stock]:.2f}"]
    last.append(f"{kept[PER_FRAME] / kept[PER_TOKEN]:.2f}")
    header = [clock_name(args), "forward", "peak", "with backward", "peak", "kept for backward"]
    print_table(header, [*rows, last])
    spread, difference = float(other.float().std()), float((one - other).abs().max())
    print(f"the velocities (spread {spread:.2f}) differ by at most {difference:.1e}")
    if args.full:
        print("\none layer at full width in bfloat16, one clip of 121 frames")
        print_table(["", "video tokens", "forward: peak", "kept for backward"], full_size(args.full))


if __name__ == "__main__":
    main()
