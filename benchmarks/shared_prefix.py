"""One guided sampling step (text guidance and audio sync guidance): shared early prefix against three separate calls.

Both compute the positive, the negative and the off-sync velocity of the same clips. With n blocks of which k are late
the shared way evaluates 2 n + k blocks per clip instead of 3 n, and skips nothing else. Text guidance alone evaluates
2 n: what audio sync guidance adds to it is the last row.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from benchmarks.measure import clock_name, interleaved, machine_facts, print_table, ratio
from benchmarks.model_sizes import (
    FPS,
    TEMPORAL_FACTOR,
    add_size_arguments,
    build_dit,
    describe_size,
    first_late_block,
    random_audio,
    random_text,
)
from components.guidance.guidance import AudioSyncGuidance, Branches, TextGuidance, guided_velocity
from components.objectives.pyramid_columns import history_clips
from components.samplers.pyramid_sampler import Conditions, evaluate_branches
from components.schedules.pyramid_schedule import latent_pyramid

SHARED, SEPARATE, TEXT_ONLY = "shared prefix, one call", "three separate calls", "text guidance alone, one call"


class GuidedStep:
    """The last unit's last stage: the longest sequence of a clip."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.dit = build_dit(args).eval()
        if self.dit.audio_layers is not None:
            for parameter in self.dit.audio_layers.parameters():
                torch.nn.init.normal_(parameter, std=0.05)
        self.autocast = torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.bfloat16)
        torch.manual_seed(1)
        past = torch.randn(args.clips, args.channels, args.latents - 1, args.size, args.size, device=args.device)
        current = torch.randn(args.clips, args.channels, 1, args.size, args.size, device=args.device)
        self.clips = [*history_clips(latent_pyramid(past, 3), 2, args.latents - 1, 1), current]
        sound = random_audio(args.clips, args.latents, args.device)
        with torch.no_grad():
            self.conditions = Conditions(
                text=random_text(args.clips, args.device),
                negative_text=random_text(args.clips, args.device),
                audio=self.dit.encode_audio(sound, args.latents, FPS, TEMPORAL_FACTOR),
            )

    @torch.no_grad()
    def shared(self) -> torch.Tensor:
        """What the sampler does."""
        with self.autocast:
            return _guided(evaluate_branches(self.dit, self.clips, 200.0, self.conditions, True, True))

    @torch.no_grad()
    def text_only(self) -> torch.Tensor:
        """A step without audio sync guidance."""
        with self.autocast:
            branches = evaluate_branches(self.dit, self.clips, 200.0, self.conditions, True, False)
            return guided_velocity(branches, TextGuidance(4.0), AudioSyncGuidance(0.0))

    @torch.no_grad()
    def separate(self) -> torch.Tensor:
        """Positive, negative and off-sync pass one after the other."""
        assert self.conditions.negative_text is not None
        swapped = replace(self.conditions, text=self.conditions.negative_text)
        with self.autocast:
            one, two, three = (
                evaluate_branches(self.dit, self.clips, 200.0, conditions, False, False, off_sync).positive
                for conditions, off_sync in ((self.conditions, False), (swapped, False), (self.conditions, True))
            )
        return _guided(Branches(one, two, three))


def _guided(branches: Branches) -> torch.Tensor:
    return guided_velocity(branches, TextGuidance(4.0), AudioSyncGuidance(2.0))


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_size_arguments(parser)
    args = parser.parse_args(argv)
    step = GuidedStep(args)
    shared, separate = step.shared(), step.separate()
    actions: dict[str, Callable[[], object]] = {
        SEPARATE: step.separate,
        SHARED: step.shared,
        TEXT_ONLY: step.text_only,
    }
    seconds = interleaved(actions, args, args.device)

    print(machine_facts(args.device, "bfloat16 autocast" if args.bfloat16 else "float32"))
    print(describe_size(args))
    blocks = args.joint_blocks + args.single_blocks
    evaluations = {
        SEPARATE: 3 * blocks,
        SHARED: 2 * blocks + blocks - first_late_block(args),
        TEXT_ONLY: 2 * blocks,
    }
    rows = [
        [name, f"{1000 * statistics.median(seconds[name]):.1f} ms", str(count)] for name, count in evaluations.items()
    ]
    for title, one, other in (
        ("ratio shared / separate", SHARED, SEPARATE),
        ("ratio shared / text guidance alone", SHARED, TEXT_ONLY),
    ):
        rows.append(
            [title, f"{ratio(seconds[one], seconds[other]):.2f}", f"{evaluations[one] / evaluations[other]:.2f}"]
        )
    print_table(["guided sampling step", clock_name(args), "blocks per clip"], rows)
    difference, spread = float((shared - separate).abs().max()), float(separate.std())
    print(f"the guided velocities (spread {spread:.2f}) differ by at most {difference:.1e}")


if __name__ == "__main__":
    main()
