"""One training step with frozen early blocks against the same step with all blocks trainable: time and memory.

Both models are the same Syncphony transformer (audio layers in the late half) on the same autoregressive pyramid
batch; a step is forward, motion-aware loss, backward and AdamW. Memory of activations is counted exactly: bytes of all
tensors that autograd keeps for the backward pass, each storage once, parameters left out.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.measure import clock_name, interleaved, machine_facts, print_table, ratio
from benchmarks.model_sizes import (
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
from components.objectives.motion_aware import MotionAwareLoss
from components.objectives.pyramid_columns import AutoregressivePyramid

ALL, FROZEN = "all blocks trainable", "early blocks frozen"


class TrainingStep:
    """A model, its optimizer and the batch it steps on."""

    def __init__(self, args: argparse.Namespace, all_train: bool) -> None:
        self.dit: SyncphonyDiT = build_dit(args, all_train)
        self.trainable = [p for p in self.dit.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trainable, lr=1e-4)
        self.autocast = torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.bfloat16)
        torch.manual_seed(1)
        self.latents = torch.randn(args.clips, args.channels, args.latents, args.size, args.size, device=args.device)
        pyramid, units = AutoregressivePyramid(), [args.latents] * 3
        self.columns = pyramid.build(self.latents, units, pyramid.draw(self.latents, units, None))
        self.stages = pyramid.schedule.stages
        self.text = random_text(args.clips, args.device)
        self.audio = random_audio(args.clips, args.latents, args.device)

    def loss(self) -> Tensor:
        """Forward pass."""
        with self.autocast:
            columns, sounds = [], []
            for column in self.columns:
                columns.append(Column(column.clips, column.timesteps, self.text.rows(column.rows)))
                audio, num_latents = self.audio.rows(column.rows), column.first_frame + 1
                context = self.dit.encode_audio(audio, num_latents, FPS, TEMPORAL_FACTOR)
                assert context is not None
                sounds.append(context)
            velocities = self.dit(columns, sounds)
        terms = MotionAwareLoss().over_columns(self.columns, velocities, self.latents, self.stages)
        return torch.cat([t.total for t in terms]).mean()

    def __call__(self) -> None:
        """The whole step."""
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.loss())
        self.optimizer.step()

    def activation_bytes(self) -> int:
        """What autograd keeps between forward and backward pass."""
        kept: dict[int, int] = {}
        weights = {p.untyped_storage().data_ptr() for p in self.dit.parameters()}
        alive: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
                alive.append(tensor)  # so that no address is used twice
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            torch.autograd.backward(self.loss())
        self.optimizer.zero_grad(set_to_none=True)
        return sum(kept.values())

    def training_state_bytes(self) -> int:
        """Gradients and AdamW's two moments."""
        return 3 * sum(p.numel() * p.element_size() for p in self.trainable)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_size_arguments(parser)
    args = parser.parse_args(argv)
    steps = {ALL: TrainingStep(args, all_train=True), FROZEN: TrainingStep(args, all_train=False)}
    actions: dict[str, Callable[[], object]] = dict(steps)
    seconds = interleaved(actions, args, args.device)
    kept = {name: step.activation_bytes() for name, step in steps.items()}
    state = {name: step.training_state_bytes() for name, step in steps.items()}

    print(machine_facts(args.device, "bfloat16 autocast" if args.bfloat16 else "float32"))
    print(describe_size(args))
    mebi = 2**20
    rows = [
        [
            name,
            f"{1000 * statistics.median(seconds[name]):.1f} ms",
            f"{kept[name] / mebi:.1f} MiB",
            f"{state[name] / mebi:.1f} MiB",
        ]
        for name in (ALL, FROZEN)
    ]
    of_all = (kept[FROZEN] / kept[ALL], state[FROZEN] / state[ALL])
    rows.append(["ratio frozen / all", f"{ratio(seconds[FROZEN], seconds[ALL]):.2f}", *(f"{r:.2f}" for r in of_all)])
    print_table(["training step", clock_name(args), "kept activations", "gradients + AdamW"], rows)


if __name__ == "__main__":
    main()
