"""A training step of Syncphony with all columns in one call against a call for each column.

::

    python -m benchmarks.columns                # a narrow model, timed
    python -m benchmarks.columns --operations   # the public model at full size, counted on the meta device

In one call, linear layers, norms, rotation and the MLP run on the tokens of all columns behind each other; attention is
each column's own. A step is a forward and a backward pass. Operations are those that compute: views and allocations are
left out, and attention, whose kernels differ from device to device, is counted by its calls.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import pyramid_batch
from benchmarks.measure import clock_name, interleaved, machine_facts, print_table, ratio
from benchmarks.model_sizes import (
    AUDIO_DIM,
    FPS,
    TEMPORAL_FACTOR,
    add_size_arguments,
    build_dit,
    describe_size,
    random_audio,
    random_text,
)
from components.backbones.pyramid_flow.column import Column
from components.backbones.syncphony.model import SyncphonyDiT
from components.contracts import AudioFeatures
from components.counting.saved_activations import fused_attention
from components.objectives.pyramid_columns import AutoregressivePyramid

APART, TOGETHER = "a call for each column", "one call"
_NOTHING = ("empty", "_unsafe_view", "detach", "alias")


@dataclass(frozen=True)
class ColumnsStep:
    """Forward and backward pass over the columns of a training step.

    Attributes:
        dit: the transformer.
        columns: its input.
        heard: of every column the sound of its rows, and how many latent frames it has.
    """

    dit: SyncphonyDiT
    columns: Sequence[Column]
    heard: Sequence[tuple[AudioFeatures, int]]

    def together(self) -> list[Tensor]:
        """All columns in one call; their velocities. Gradients are left in the transformer."""
        return self._run([slice(None)])

    def apart(self) -> list[Tensor]:
        """The same in a call for each column."""
        return self._run([slice(place, place + 1) for place in range(len(self.columns))])

    def _run(self, groups: Sequence[slice]) -> list[Tensor]:
        self.dit.zero_grad(set_to_none=True)
        velocities: list[Tensor] = []
        for group in groups:
            sounds = self.dit.encode_prefixes(self.heard[group], FPS, TEMPORAL_FACTOR)
            velocities += self.dit(self.columns[group], sounds)
        torch.autograd.backward(torch.stack([v.float().square().mean() for v in velocities]).mean())
        return [v.detach() for v in velocities]


class Operations(TorchDispatchMode):
    """Counts the operations that compute, as a context manager.

    Attributes:
        count: so far, without attention.
        attention: calls of attention in forward passes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.count = 0
        self.attention = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (function.is_view or any(word in str(function) for word in _NOTHING))
        return function(*args, **(kwargs or {}))


def operations_of(step: Callable[[], object]) -> Operations:
    """What a step on the meta device computes."""
    counted = Operations()
    with fused_attention(), counted:
        kernel = F.scaled_dot_product_attention

        def attend(*args: Any, **named: Any) -> Tensor:
            counted.attention += 1
            return kernel(*args, **named)

        with patch.object(F, "scaled_dot_product_attention", attend):
            step()
    return counted


def narrow_step(args: argparse.Namespace) -> ColumnsStep:
    """Four columns of a narrow model with sound."""
    dit = build_dit(args)
    torch.manual_seed(1)
    latents = torch.randn(args.clips, args.channels, args.latents, args.size, args.size, device=args.device)
    pyramid, units = AutoregressivePyramid(), [args.latents] * 3
    text, audio = random_text(args.clips, args.device), random_audio(args.clips, args.latents, args.device)
    columns, heard = [], []
    for column in pyramid.build(latents, units, pyramid.draw(latents, units, None)):
        columns.append(Column(column.clips, column.timesteps, text.rows(column.rows)))
        heard.append((audio.rows(column.rows), args.latents))
    return ColumnsStep(dit, columns, heard)


def public_step(
    size: pyramid_batch.ModelSize, batch: pyramid_batch.BatchSize, device: str, dit: SyncphonyDiT | None = None
) -> ColumnsStep:
    """Four columns of a model with the public heads, by default with float32 weights of no value and a narrow sound."""
    if dit is None:
        dit = pyramid_batch.build_dit(size, device, torch.float32, torch.float32, AUDIO_DIM)
    assert dit.audio_dim is not None
    columns = pyramid_batch.training_columns(batch, size.variant, device)
    sound = random_audio(1, batch.latents, device, dit.audio_dim)
    rows = [column.num_rows for column in columns]
    frames = [sum(clip.shape[2] for clip in column.clips) for column in columns]
    heard = [
        (sound.rows(torch.zeros(r, dtype=torch.long, device=device)), t) for r, t in zip(rows, frames, strict=True)
    ]
    return ColumnsStep(dit, columns, heard)


def measure(args: argparse.Namespace) -> None:
    """Times and prints."""
    step = narrow_step(args)
    autocast = torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.bfloat16)
    with autocast:
        results = {APART: step.apart(), TOGETHER: step.together()}
        seconds = interleaved({APART: step.apart, TOGETHER: step.together}, args, args.device)
    print(machine_facts(args.device, "bfloat16 autocast" if args.bfloat16 else "float32"))
    print(describe_size(args))
    rows = []
    for way in (APART, TOGETHER):
        shown = f"{1000 * statistics.median(seconds[way]):.1f} ms"
        rows.append([way, shown, f"{ratio(seconds[way], seconds[APART]):.2f}"])
    print_table(["a training step", clock_name(args), "of the first"], rows)
    pairs = zip(results[APART], results[TOGETHER], strict=True)
    print(f"velocities differ by at most {max(float((a - b).abs().max()) for a, b in pairs):.1e}")


def count(size: pyramid_batch.ModelSize, batch: pyramid_batch.BatchSize) -> None:
    """Counts and prints."""
    step = public_step(size, batch, "meta")
    counted = {APART: operations_of(step.apart), TOGETHER: operations_of(step.together)}
    clips = f"{batch.clips} clips of {batch.latents} latents, prefix {batch.prefix}"
    print(f"{size.variant}, {size.num_blocks} blocks; {clips}")
    rows = [
        [way, f"{found.count:,}", f"{found.count / counted[APART].count:.2f}", f"{found.attention:,}"]
        for way, found in counted.items()
    ]
    print_table(["a training step", "operations", "of the first", "attention, forward"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_arguments(parser)
    parser.add_argument("--operations", action="store_true", help="count a step of the public miniFLUX model instead")
    args = parser.parse_args(argv)
    if args.operations:
        count(pyramid_batch.PUBLIC["miniflux"], pyramid_batch.BatchSize(prefix=8, shortest=2))
    else:
        measure(args)


if __name__ == "__main__":
    main()
