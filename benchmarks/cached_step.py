"""A training step on raw clips against one on clips that were encoded beforehand (``avsync prepare``).

::

    python -m benchmarks.cached_step            # both quickstarts, measured
    python -m benchmarks.cached_step --flops    # both full experiments, counted without computing

Three ways: ``whole`` encodes every clip from its first frame to its last; ``prefixes`` encodes as far as a column reads
it, as Syncphony trains on raw clips; ``cached`` encodes nothing. FLOPs are 2 per multiply-add of layers, convolutions
and attention, forward and backward, activations kept; texts are encoded once in any case and are left out.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.measure import add_timing_arguments, clock_name, interleaved, machine_facts, print_table, ratio
from components.contracts import ClipBatch
from datamodules.reading.cached_latents import DeliveredClip, collate_prepared
from datamodules.reading.clip_data_module import ClipDataModule
from datamodules.reading.clip_dataset import collate_clips
from datamodules.reading.order import SampleKey
from lightning_modules.command_line.config_files import with_bases
from lightning_modules.estimates.encoding import video_cost
from lightning_modules.estimates.experiment import Module, meta_experiment
from lightning_modules.estimates.harmony import count_harmony
from lightning_modules.estimates.syncphony import count_syncphony
from lightning_modules.experiment import ModelAndDataCLI
from lightning_modules.harmony.module import HarmonyModule
from lightning_modules.preparation.clip_encoder import ClipEncoder
from lightning_modules.syncphony.module import SyncphonyModule

QUICKSTARTS = {"Syncphony": "configs/quickstart.yaml", "Harmony": "configs/harmony/quickstart.yaml"}
FULL = {"Syncphony": "configs/syncphony/avsync15.yaml", "Harmony": "configs/harmony/stage3_joint.yaml"}
WHOLE, PREFIXES, CACHED = "whole", "prefixes", "cached"
TERA = 1e12


# --- quickstarts, measured


def quickstart(config: str, options: Sequence[str]) -> tuple[Module, ClipDataModule]:
    """Model and data of a quickstart."""
    cli = ModelAndDataCLI(with_bases(["--config", config, *options]))
    module, data = cli.model, cli.datamodule
    assert isinstance(module, SyncphonyModule | HarmonyModule) and isinstance(data, ClipDataModule)
    module.configure_model()
    module.train()
    for name in ("log", "log_dict"):  # there is no trainer to log to
        setattr(module, name, lambda *_args, **_kwargs: None)
    data.prepare_data()
    return module, data


def batches(module: Module, data: ClipDataModule) -> tuple[ClipBatch, ClipBatch]:
    """The same clips, raw and encoded."""
    dataset = data.training_clips()
    clips = [dataset[SampleKey(index % len(dataset.records), index)] for index in range(data.batch_size)]
    parts = {module.frozen_arguments[name]: part for name, part in module.frozen_modules().items()}
    encoder = ClipEncoder.of(data.clip, module.device, parts)
    empty = encoder.empty()
    delivered = [DeliveredClip(clip, index, empty) for index, clip in enumerate(encoder.encode(clips))]
    return collate_clips(clips, data.clip), collate_prepared(delivered, data.clip)


def step(module: Module, batch: ClipBatch) -> Tensor:
    """Forward and backward."""
    loss = module.training_step(batch, 0)
    torch.autograd.backward(loss)
    module.zero_grad(set_to_none=True)
    return loss.detach()


def whole_step(module: SyncphonyModule, batch: ClipBatch) -> Tensor:
    """A step whose clips are encoded from end to end."""
    with torch.no_grad():
        latents = module.codec.encode(batch.video.float() / 127.5 - 1)
    return step(module, replace(batch, video_latents=latents))


def measure(args: argparse.Namespace) -> None:
    """Times of both quickstarts."""
    rows, difference = [], 0.0
    for name in args.systems:
        size = [] if args.clips is None else [f"--data.batch_size={args.clips}", f"--data.num_train={args.clips}"]
        module, data = quickstart(QUICKSTARTS[name], [*size, "--callbacks=null", *args.options])
        raw, cached = batches(module, data)
        actions: dict[str, Callable[[], Tensor]] = {}
        if isinstance(module, SyncphonyModule):
            actions = {WHOLE: partial(whole_step, module, raw), PREFIXES: partial(step, module, raw)}
        else:  # its transformer reads clips as a whole
            actions = {WHOLE: partial(step, module, raw)}
        actions[CACHED] = partial(step, module, cached)
        losses = [float(action()) for action in actions.values()]
        difference = max(difference, (max(losses) - min(losses)) / losses[0])
        seconds = interleaved(actions, args)
        for way, times in seconds.items():
            shown = [f"{1000 * statistics.median(times):.1f} ms", f"{ratio(times, seconds[WHOLE]):.2f}"]
            rows.append([f"{name}, {way}", *shown])
    print(machine_facts("cpu", "float32"))
    print_table(["a step of the quickstart", clock_name(args), "of whole"], rows)
    print(f"losses differ by at most {difference:.1e} of themselves")


# --- full experiments, counted


def flops_by_way(config: str, options: Sequence[str]) -> dict[str, dict[str, float]]:
    """FLOPs of a step by way and part, of Syncphony in the mean over all prefix lengths."""
    experiment = meta_experiment(["--config", config, *options])
    module, data = experiment.module, experiment.data
    counts = count_syncphony(module, data) if isinstance(module, SyncphonyModule) else count_harmony(module, data)
    clips, step = counts.shape.clips, {"transformer": counts.cost.flops}
    parts = {name: flops * clips for name, flops in counts.encoding.flops.items()}
    ways = {CACHED: step}
    if isinstance(module, SyncphonyModule):
        shape = counts.shape
        whole = video_cost(module.codec, shape.num_frames, shape.height, shape.width)[0]
        return {WHOLE: {**parts, "video codec": float(whole * clips), **step}, PREFIXES: {**parts, **step}, **ways}
    return {WHOLE: {**parts, **step}, **ways}


def count(args: argparse.Namespace) -> None:
    """FLOPs of the full experiments."""
    rows = []
    for name in args.systems:
        counted = flops_by_way(FULL[name], args.options)
        whole = sum(counted[WHOLE].values())
        for way, parts in counted.items():
            total = sum(parts.values())
            shown = [f"{parts.get(part, 0.0) / TERA:,.1f}" for part in ("video codec", "transformer")]
            other = total - parts.get("video codec", 0.0) - parts["transformer"]
            row = [f"{name}, {way}", *shown, f"{other / TERA:,.2f}", f"{1 - parts['transformer'] / total:.3f}"]
            rows.append([*row, f"{total / whole:.3f}"])
    print("TFLOP of a step of one process, forward and backward")
    print_table(["full experiment", "video codec", "transformer", "sound", "encoding's share", "of whole"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flops", action="store_true", help="count the full experiments")
    parser.add_argument("--systems", nargs="+", choices=list(QUICKSTARTS), default=list(QUICKSTARTS))
    parser.add_argument("--clips", type=int, default=None, help="clips per batch (default: the quickstart's)")
    add_timing_arguments(parser, repeats=5)
    args, options = parser.parse_known_args(argv)
    args.options = options  # of the experiments
    if args.flops:
        count(args)
    else:
        measure(args)


if __name__ == "__main__":
    main()
