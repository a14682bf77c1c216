"""What a Syncphony experiment takes: parameters, optimizer state and activations, counted without any weights.

::

    python -m benchmarks.memory --config configs/syncphony/avsync15.yaml

The model is built on the meta device, from shapes alone; public checkpoints need not be there. Activations are what
autograd keeps in a real forward pass over one training batch, with attention counted as fused kernels keep it (queries,
keys, values, output). GiB are 2^30 bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.experiment import experiment_on_meta
from benchmarks.measure import print_table
from benchmarks.saved_activations import fused_attention, saved_bytes
from benchmarks.vae import VideoSize, encoding_peak
from components.backbones.column import Column
from components.contracts import AudioEncoder, AudioFeatures, TextFeatures
from components.encoders.cached_text import CachedText
from components.objectives.prefix_lengths import units_per_stage
from datamodules.clip_data_module import ClipDataModule
from lightning_modules.syncphony import SyncphonyModule

GIB = 2**30
TEXT_TOKENS = 128


@dataclass(frozen=True)
class Activations:
    """Bytes autograd keeps of one batch.

    Attributes:
        kept: with the experiment's own setting of ``checkpoint_activations``, recomputation of one block included.
        without_checkpoints: with everything kept.
        units: longest prefix of the batch, the costliest of all.
    """

    kept: int
    without_checkpoints: int
    units: int


def num_parameters(module: nn.Module | None, trainable: bool | None = None) -> int:
    """Parameters of ``module``, all or only those that train (or do not)."""
    parameters = [] if module is None else list(module.parameters())
    return sum(p.numel() for p in parameters if trainable is None or p.requires_grad == trainable)


def num_bytes(module: nn.Module | None, trainable: bool | None = None) -> int:
    """Bytes of the parameters in the precision they are kept in."""
    parameters = [] if module is None else list(module.parameters())
    return sum(p.numel() * p.element_size() for p in parameters if trainable is None or p.requires_grad == trainable)


def count_activations(module: SyncphonyModule, data: ClipDataModule) -> Activations:
    """Forward passes over the costliest training batch, blocks kept whole and blocks kept by their inputs."""
    module.dit.to(torch.bfloat16)  # what mixed precision computes in
    num_latents = module.codec.num_latents(data.form.num_frames)
    num_units = module.pyramid.num_units(num_latents)
    shortest = module.shortest_prefix
    columns = {n: _columns(module, data, n, num_units) for n in range(shortest, num_units + 1)}
    # every n has about as many tokens; attention and windows make the difference
    costliest = max(columns, key=lambda n: sum(clip.numel() for column in columns[n] for clip in column.clips))
    checkpoints = module.dit.checkpoint_activations
    module.dit.checkpoint_activations = False
    with fused_attention():
        whole, blocks = saved_bytes(lambda: module.dit(columns[costliest]), list(module.dit.backbone.blocks))
    module.dit.checkpoint_activations = checkpoints
    inputs = sum(block.inputs for block in blocks[module.dit.first_late_block :])
    largest = max((block.kept for block in blocks), default=0)
    outside = whole - sum(block.kept for block in blocks)
    kept = outside + inputs + largest if checkpoints else whole
    return Activations(kept, whole, costliest)


def _columns(module: SyncphonyModule, data: ClipDataModule, n: int, num_units: int) -> list[Column]:
    """A training batch's input on the meta device."""
    codec, pyramid, form = module.codec, module.pyramid, data.form
    side = codec.spatial_factor
    shape = (codec.latent_channels, codec.num_latents(form.num_frames), form.height // side, form.width // side)
    latents = torch.zeros(data.batch_size, *shape, device="cpu")
    units = units_per_stage(n, num_units, pyramid.schedule.stages, module.shortest_prefix)
    training = pyramid.build(latents, units, pyramid.draw(latents, units, torch.Generator().manual_seed(0)))
    columns = []
    for column in training:
        rows, frames = len(column.rows), column.first_frame + column.target.shape[2]
        text = TextFeatures(
            tokens=torch.empty(rows, TEXT_TOKENS, module.text_encoder.dim, device="meta"),
            mask=torch.ones(rows, TEXT_TOKENS, dtype=torch.bool, device="cpu"),
            pooled=torch.empty(rows, module.text_encoder.pooled_dim, device="meta"),
        )
        audio = None
        if module.audio_encoder is not None:
            heard = _sound(module.audio_encoder, rows, form.num_frames / form.fps)
            audio = module.dit.listen(heard, frames)
        clips = [clip.to("meta") for clip in column.clips]
        columns.append(Column(clips, column.timesteps.to("meta"), text, audio))
    return columns


def _sound(encoder: AudioEncoder, rows: int, seconds: float) -> AudioFeatures:
    """Shapes of the encoder's tokens."""
    rate_hz = float(getattr(encoder, "rate_hz", 50.0))
    tokens = torch.empty(rows, int(seconds * rate_hz), encoder.dim, device="meta")
    return AudioFeatures(tokens, rate_hz, torch.ones(tokens.shape[:2], dtype=torch.bool, device="meta"), 0.5 / rate_hz)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints two tables: what there is, and what lies on each GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", required=True, help="configuration file; may be repeated")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 4, 8])
    args, overrides = parser.parse_known_args(arguments)
    module, data, names = experiment_on_meta(args.config, overrides)
    dit = module.dit

    text = module.text_encoder
    if isinstance(text, CachedText):
        with torch.device("meta"):
            text = text.source.load()
    parts = {
        "transformer, frozen": (num_parameters(dit, False), 0, num_bytes(dit, False)),
        "transformer, trained": (num_parameters(dit, True), num_parameters(dit, True), num_bytes(dit, True)),
        "video codec": (num_parameters(module.codec), 0, num_bytes(module.codec)),
        "audio encoder": (num_parameters(module.audio_encoder), 0, num_bytes(module.audio_encoder)),
        "text encoder": (num_parameters(text), 0, num_bytes(text)),
    }
    rows = [[name, f"{n / 1e6:,.1f}", f"{t / 1e6:,.1f}", f"{b / GIB:.2f}"] for name, (n, t, b) in parts.items()]
    total = [sum(part[i] for part in parts.values()) for i in range(3)]
    rows.append(["total", f"{total[0] / 1e6:,.1f}", f"{total[1] / 1e6:,.1f}", f"{total[2] / GIB:.2f}"])
    print_table(["part", "parameters (M)", "trained (M)", "weights (GiB)"], rows)

    trained, frozen = num_bytes(dit, True), num_bytes(dit, False)
    averages = num_parameters(dit, True) * 4 if "EMA" in names else 0
    replicated = num_bytes(module.codec) + num_bytes(module.audio_encoder)
    unit = max(num_parameters(block) for block in dit.backbone.blocks) * 2
    size = VideoSize(data.batch_size, data.form.num_frames, data.form.height, data.form.width)
    encoding = encoding_peak(module.codec, size)
    activations = count_activations(module, data)
    print(
        f"\nper GPU and {data.batch_size} clips of {data.form.num_frames} frames {data.form.height}x{data.form.width}, "
        "weights and optimizer sharded (GiB)"
    )
    rows = []
    for gpus in args.gpus:
        gathered = 3 * unit if gpus > 1 else num_parameters(dit, True) * 2  # bf16 copies that compute needs at a time
        columns = [
            (trained + frozen) / gpus + replicated,
            trained / gpus,
            2 * trained / gpus,
            averages / gpus,
            gathered,
            activations.kept,
            encoding,
        ]
        total_bytes = sum(columns[:-2]) + max(columns[-2:])  # latents are encoded before the transformer runs
        cells = [f"{value / GIB:.2f}" for value in (*columns, total_bytes)]
        rows.append([str(gpus), *cells])
    header = ["GPUs", "weights", "gradients", "AdamW", "EMA", "bf16 copies", "activations", "encoding", "peak"]
    print_table(header, rows)
    setting = "with" if dit.checkpoint_activations else "without"
    print(
        f"\nactivations: {setting} checkpoints, costliest batch (high-resolution prefix of {activations.units});\n"
        f"all kept they are {activations.without_checkpoints / GIB:.2f} GiB.\n"
        "encoding: what the video codec holds while it encodes; the peak takes the larger of both.\n"
        "Not counted: buffers of the communication, the allocator's slack. The text encoder runs for new prompts only\n"
        "and is then freed."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
