"""FLOPs of sampling a clip with the full Syncphony and of a training step, counted without computing.

::

    python -m benchmarks.sampling_flops                                 # some minutes on one thread
    python -m benchmarks.sampling_flops --prefixes 2 9 16               # not all training batches

Each row keeps the savings of the rows above it:

- ``separate``: positive, negative and off-sync velocity in a call each, attention under a matrix of masks;
- ``shared``: one call in which the off-sync row forks where the first audio layer stands;
- ``by frame``: attention in a call for each latent frame, over the keys it may see;
- ``current``: the last block changes the tokens that are read alone;
- ``memory``: a step finds the keys and values of text and oldest history that the unit before has left;
- ``merged``: without the last evaluation of every stage, a thousandth of its path. The one row that is not exact.

FLOPs are 2 per multiply-add of linear layers and attention, masked pairs included where they are computed; the video
codec and the encoders are left out. Activations are kept. Text has the 128 tokens that encoders give, though padding
is cut off before the transformer: the prompts of AVSync15 are names of classes, ``--words 8``.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import print_table
from benchmarks.pyramid_savings import OF_TRAINING, WAYS, Run, Way, as_it_is, backward
from components.backbones.syncphony.model import SyncphonyDiT
from components.contracts import AudioFeatures, TextFeatures
from components.counting.flops import activations_kept
from components.guidance.guidance import TextGuidance
from components.objectives.pyramid_columns import unit_starts
from components.samplers.pyramid_sampler import Conditions
from components.samplers.unit_memory import GIB, UnitMemory
from datamodules.reading.ordered_data_module import OrderedDataModule
from lightning_modules.estimates.counts import TEXT_TOKENS
from lightning_modules.estimates.experiment import meta_experiment
from lightning_modules.estimates.syncphony import shape_of
from lightning_modules.syncphony.module import SyncphonyModule

EXPERIMENT = "configs/syncphony/avsync15.yaml"
TERA = 1e12


def full_run(module: SyncphonyModule, data: OrderedDataModule, words: int) -> Run:
    """A clip of the experiment from its first frame, sound and prompts of so many tokens."""
    codec, clip, dit = module.codec, data.clip, module.dit
    latents, side = codec.num_latents(clip.num_frames), codec.spatial_factor
    audio = None
    if module.audio_encoder is not None:
        rate_hz = float(getattr(module.audio_encoder, "rate_hz", 50.0))
        tokens = torch.empty(1, int(clip.duration_s * rate_hz), module.audio_encoder.dim, device="meta")
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device="meta")
        features = AudioFeatures(tokens, rate_hz, mask, 0.5 / rate_hz)
        audio = dit.encode_audio(features, latents, clip.fps, codec.temporal_factor)
    text, negative = (
        TextFeatures(
            torch.empty(1, words, module.text_encoder.dim, device="meta"),
            torch.ones(1, words, dtype=torch.bool, device="cpu"),  # its length is read
            torch.empty(1, module.text_encoder.pooled_dim, device="meta"),
        )
        for _ in range(2)
    )
    image = torch.empty(1, codec.latent_channels, 1, clip.height // side, clip.width // side, device="meta")
    return Run(dit, Conditions(text, negative, audio), image, latents, module.sampler)


def thinned(dit: SyncphonyDiT) -> dict[str, int]:
    """Leaves one block of those that cost the same, in place; how often each of the others' modules counts once more.

    Blocks of one class cost the same among the early ones and among the late ones, but for the last of all.
    """
    blocks = list(dit.backbone.blocks)
    kinds = [(type(block), i >= dit.first_late_block) for i, block in enumerate(blocks[:-1])]
    kept = sorted({kinds.index(kind) for kind in kinds})
    more: dict[str, int] = {}
    for name, part in [(name, part) for name, part in dit.backbone.named_children() if isinstance(part, nn.ModuleList)]:
        there = [block for i, block in enumerate(blocks) if block in set(part) and (i in kept or block is blocks[-1])]
        for place, block in enumerate(there):
            if block is not blocks[-1]:
                more[f"backbone.{name}.{place}"] = kinds.count(kinds[blocks.index(block)]) - 1
        setattr(dit.backbone, name, nn.ModuleList(there))
    if dit.audio_layers:  # there are none without late blocks
        late = [i for i in kept if i >= dit.first_late_block]
        more |= {f"audio_layers.{place}": kinds.count(kinds[i]) - 1 for place, i in enumerate(late)}
        places = [*late, len(blocks) - 1]
        dit.audio_layers = nn.ModuleList(dit.audio_layers[i - dit.first_late_block] for i in places)
    dit.first_late_block = sum(i < dit.first_late_block for i in (*kept, len(blocks) - 1))
    return more


def flops_by_stage(run: Run, way: Way, more: Mapping[str, int]) -> list[int]:
    """FLOPs of one step of each stage, all units together; every step of a stage costs the same.

    Args:
        run: with a transformer of which each kind of block is there once.
        way: which savings are on.
        more: see `thinned`.
    """
    totals = [0]

    def note(_: int) -> None:
        counts = {name: sum(by_op.values()) for name, by_op in counter.get_flop_counts().items()}
        again = sum(times * counts.get(f"SyncphonyDiT.{name}", 0) for name, times in more.items())
        totals.append(int(counter.get_total_flops()) + again)

    with FlopCounterMode(display=False) as counter:
        run(way, (1,) * run.sampler.schedule.stages, note)
    steps = [after - before for before, after in pairwise(totals)]
    return [sum(steps[stage :: run.sampler.schedule.stages]) for stage in range(run.sampler.schedule.stages)]


def unit_memory(run: Run, steps: Sequence[int], limit_gib: float) -> UnitMemory:
    """What the sampler would keep."""
    sampler, image = run.sampler, run.image
    bounds = [*unit_starts(run.latents, sampler.frames_per_unit), run.latents]
    both = TextGuidance(sampler.video_text_scale).enabled
    lowest = 2 ** (sampler.schedule.stages - 1) * run.dit.backbone.patch
    return UnitMemory(
        run.dit,
        bounds,
        steps,
        len(image) * (1 + both),
        len(image) if sampler.sync_scale else 0,
        run.conditions.text.longest,
        image.shape[-2] // lowest * (image.shape[-1] // lowest),
        limit_gib * GIB,
        image.device,
    )


def sampling_rows(run: Run) -> list[list[str]]:
    """FLOPs of a clip, way by way; of the transformer one block of each kind is left."""
    of_way = [[max(count - way.merged, 1) for count in run.sampler.video_steps] for way in WAYS]
    # before the transformer is thinned
    memories = [
        unit_memory(run, steps, run.sampler.memory_gib if way.memory else 0.0)
        for way, steps in zip(WAYS, of_way, strict=True)
    ]
    more = thinned(run.dit)
    rows: list[list[str]] = []
    first = last = 0.0
    anew: list[int] = []
    for way, steps, memory in zip(WAYS, of_way, memories, strict=True):
        flops, total = flops_by_stage(run, way, more), 0.0
        anew = anew if way.memory else flops
        for stage, count in enumerate(steps):
            fitting = sum(memory.at(1, stage, step) is not None for step in range(count))
            total += fitting * flops[stage] + (count - fitting) * anew[stage]
        first, gain = first or total, f"{total / last:.3f}" if last else ""
        size = f"{memory.planned_bytes / GIB:.1f}"
        rows.append([way.name, f"{total / TERA:,.0f}", gain, f"{total / first:.3f}", size])
        last = total
    return rows


def training_rows(module: SyncphonyModule, data: OrderedDataModule, args: argparse.Namespace) -> list[list[str]]:
    """FLOPs of a training step, mean over prefix lengths."""
    shapes, shape = module.step_shapes(), replace(shape_of(data), text_tokens=args.words)
    shapes.dit.to(torch.bfloat16)
    lengths = args.prefixes or sorted({length for length, _ in shapes.places(shape)})
    rows: list[list[str]] = []
    first = last = 0.0
    for way in OF_TRAINING:
        counted = []
        for n in lengths:
            columns = shapes.columns(shape, (n, None))
            sounds = shapes.sounds(shape, columns)  # their keys and values train as well
            with FlopCounterMode(display=False) as counter, as_it_is(way, shapes.dit), activations_kept(shapes.dit):
                backward(shapes.dit(columns, sounds))
            counted.append(counter.get_total_flops())
        mean = statistics.mean(counted)
        first, gain = first or mean, f"{mean / last:.3f}" if last else ""
        rows.append([way.name, f"{mean / TERA:.1f}", gain, f"{mean / first:.3f}"])
        last = mean
    return rows


def count(args: argparse.Namespace) -> None:
    """Prints the FLOPs of the full experiment."""
    experiment = meta_experiment(["--config", EXPERIMENT, *args.options])
    module, data = experiment.module, experiment.data
    assert isinstance(module, SyncphonyModule)
    module.dit.to(torch.bfloat16)
    module.dit.checkpoint_activations = False
    run = full_run(module, data, args.words)
    clip = data.clip
    what = f"{clip.num_frames} frames {clip.height}x{clip.width}, {args.words} text tokens"
    print(f"{EXPERIMENT}: transformer and audio layers; {what}")
    header = ["sampling a clip", "TFLOP", "of the row above", "of the first", "GiB handed on"]
    step = f"a training step, {data.batch_size} clips"
    of_training = training_rows(module, data, args)  # sampling thins the transformer
    print_table(header, sampling_rows(run))
    print()
    print_table([step, "TFLOP", "of the row above", "of the first"], of_training)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=TEXT_TOKENS["Syncphony"], help="text tokens, none of them padding")
    parser.add_argument("--prefixes", type=int, nargs="+", default=None, help="of training; all by default")
    args, options = parser.parse_known_args(argv)
    args.options = options  # of the experiment
    count(args)


if __name__ == "__main__":
    main()
