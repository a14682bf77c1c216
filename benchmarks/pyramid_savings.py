"""What the savings of Syncphony's transformer are worth in time, one after the other: sampling and a training step.

::

    python -m benchmarks.pyramid_savings --latents 8 --clips 4

Each row keeps the savings of the rows above it:

- ``separate``: positive, negative and off-sync velocity in a call each, attention under a matrix of masks;
- ``shared``: one call in which the off-sync row forks where the first audio layer stands;
- ``by frame``: attention in a call for each latent frame, over the keys it may see;
- ``current``: the last block changes the tokens that are read alone;
- ``memory``: a step finds the keys and values of text and oldest history that the unit before has left;
- ``merged``: without the last evaluation of every stage, a thousandth of its path. The one row that is not exact.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor, nn

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
from components.backbones.attention_kernel import attention
from components.backbones.pyramid_flow.column import Column
from components.backbones.syncphony.model import SyncphonyDiT
from components.guidance.guidance import Branches
from components.objectives.pyramid_columns import AutoregressivePyramid
from components.samplers import pyramid_sampler
from components.samplers.pyramid_sampler import Conditions, PyramidSampler, evaluate_branches
from components.schedules.pyramid_schedule import block_noise


@dataclass(frozen=True)
class Way:
    """Which savings are on."""

    name: str
    shared: bool = True
    by_frame: bool = True
    current: bool = True
    memory: bool = True
    merged: bool = False


WAYS = (
    Way("separate", shared=False, by_frame=False, current=False, memory=False),
    Way("shared", by_frame=False, current=False, memory=False),
    Way("by frame", current=False, memory=False),
    Way("current", memory=False),
    Way("memory"),
    Way("merged", merged=True),
)
OF_TRAINING = tuple(way for way in WAYS if way.shared and not way.memory)


@contextmanager
def as_it_is(way: Way, dit: SyncphonyDiT) -> Iterator[None]:
    """Takes the savings away that are off."""
    with ExitStack() as taken:
        if not way.shared:
            taken.enter_context(patch.object(pyramid_sampler, "evaluate_branches", _separately))
        if not way.by_frame:
            taken.enter_context(patch("components.backbones.pyramid_flow.attention.prefix_attention", _under_a_mask))
        if not way.current:
            taken.enter_context(_whole(dit.backbone.blocks[-1]))
        yield


def _under_a_mask(
    q: Tensor, k: Tensor, v: Tensor, calls: Sequence[tuple[int, int]], key_mask: Tensor | None = None
) -> Tensor:
    """`prefix_attention` as one call under a matrix of masks; none where all see all."""
    ends = torch.cat([torch.full((size,), end, device=q.device) for size, end in calls])
    mask = None if len(calls) == 1 else torch.arange(k.shape[1], device=q.device) < ends[:, None]
    if key_mask is not None:
        keys = key_mask[:, None, None]
        mask = keys if mask is None else mask & keys
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return attention(q, k, v, mask).transpose(1, 2)


@contextmanager
def _whole(block: nn.Module) -> Iterator[None]:
    """The block changes all tokens, whatever it is asked for."""
    forward = block.forward
    with patch.object(block, "forward", lambda states, current_only=False: forward(states)):
        yield


def _separately(
    model: SyncphonyDiT,
    clips: Sequence[Tensor],
    timestep: float,
    conditions: Conditions,
    negative: bool,
    off_sync_too: bool,
    *_: object,
) -> Branches:
    """`evaluate_branches` with a call for each branch."""
    one = partial(evaluate_branches, model, clips, timestep, negative=False, off_sync_too=False)
    found = {"positive": one(conditions).positive}
    if negative and conditions.negative_text is not None:
        found["negative"] = one(replace(conditions, text=conditions.negative_text)).positive
    if off_sync_too:
        found["off_sync"] = one(conditions, off_sync=True).positive
    return Branches(**found)


@dataclass(frozen=True)
class Run:
    """A clip to sample: what it is made from, and how."""

    dit: SyncphonyDiT
    conditions: Conditions
    image: Tensor
    latents: int
    sampler: PyramidSampler

    def __call__(
        self, way: Way, steps: Sequence[int] | None = None, progress: Callable[[int], object] | None = None
    ) -> Tensor:
        """Latents of the whole clip."""
        given = self.sampler
        sampler = PyramidSampler(
            given.schedule,
            steps or given.video_steps,
            given.image_steps,
            given.video_text_scale,
            given.image_text_scale,
            given.sync_scale,
            given.frames_per_unit,
            given.memory_gib if way.memory else 0.0,
            way.merged,
        )
        shape = (*self.image.shape[:2], self.latents, *self.image.shape[3:])
        with as_it_is(way, self.dit):
            return sampler.sample(
                self.dit, self.conditions, shape, _Noise(self.image.device), self.image, progress=progress
            )


class _Noise:
    """The same numbers for every run; shapes alone on the meta device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.generator = None if device.type == "meta" else torch.Generator(device).manual_seed(1)

    def initial(self, shape: Sequence[int]) -> Tensor:
        """Standard normal latents."""
        return torch.randn(*shape, generator=self.generator, device=self.device)

    def block(self, unit: int, stage: int, shape: Sequence[int], gamma: float) -> Tensor:
        """Noise of a jump."""
        return block_noise(self.initial(shape), gamma)


def backward(velocities: Sequence[Tensor]) -> None:
    """Of their mean square."""
    torch.autograd.backward(torch.stack([v.float().square().mean() for v in velocities]).mean())


class TrainingStep:
    """Forward and backward pass of an autoregressive batch."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.dit = build_dit(args)
        torch.manual_seed(1)
        latents = torch.randn(args.clips, args.channels, args.latents, args.size, args.size, device=args.device)
        pyramid, units = AutoregressivePyramid(), [args.latents] * 3
        text, audio = random_text(args.clips, args.device), random_audio(args.clips, args.latents, args.device)
        self.columns, self.heard = [], []
        for column in pyramid.build(latents, units, pyramid.draw(latents, units, None)):
            self.columns.append(Column(column.clips, column.timesteps, text.rows(column.rows)))
            self.heard.append((audio.rows(column.rows), args.latents))

    def __call__(self, way: Way) -> None:
        """Runs it; gradients are dropped."""
        with as_it_is(way, self.dit):
            sounds = self.dit.encode_prefixes(self.heard, FPS, TEMPORAL_FACTOR)
            backward(self.dit(self.columns, sounds))
        self.dit.zero_grad(set_to_none=True)


def narrow_run(args: argparse.Namespace) -> Run:
    """One clip, guided by text and sound."""
    dit = build_dit(args).eval()
    for parameter in dit.audio_layers.parameters() if dit.audio_layers is not None else ():
        nn.init.normal_(parameter, std=0.05)
    torch.manual_seed(2)
    text, negative = (random_text(1, args.device) for _ in range(2))
    with torch.no_grad():
        sound = dit.encode_audio(random_audio(1, args.latents, args.device), args.latents, FPS, TEMPORAL_FACTOR)
    image = torch.randn(1, args.channels, 1, args.size, args.size, device=args.device)
    return Run(
        dit, Conditions(text, negative, sound), image, args.latents, PyramidSampler(video_steps=(args.steps,) * 3)
    )


def measure(args: argparse.Namespace) -> None:
    """Times and prints."""
    run, step = narrow_run(args), TrainingStep(args)
    autocast = torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.bfloat16)
    with autocast:
        outputs = {way: run(way) for way in WAYS}
        sampling = interleaved({way.name: partial(run, way) for way in WAYS}, args, args.device)
        training = interleaved({way.name: partial(step, way) for way in OF_TRAINING}, args, args.device)
    print(machine_facts(args.device, "bfloat16 autocast" if args.bfloat16 else "float32"))
    print(describe_size(args))
    for title, ways, seconds in (("sampling a clip", WAYS, sampling), ("a training step", OF_TRAINING, training)):
        rows = []
        for i, way in enumerate(ways):
            row = [way.name, f"{1000 * statistics.median(seconds[way.name]):.1f} ms"]
            row += [f"{ratio(seconds[way.name], seconds[ways[j].name]):.2f}" for j in (max(i - 1, 0), 0)]
            if ways is WAYS:
                row.append(f"{float((outputs[way] - outputs[ways[0]]).abs().max()):.1e}")
            rows.append(row)
        difference = ["difference"] if ways is WAYS else []
        print_table([title, clock_name(args), "of the row above", "of the first", *difference], rows)
    print(f"the latents have a spread of {float(outputs[WAYS[0]].std()):.2f}")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_arguments(parser)
    parser.add_argument("--steps", type=int, default=2, help="Euler steps of every stage")
    measure(parser.parse_args(argv))


if __name__ == "__main__":
    main()
