"""What the card itself does, both video VAEs at full size, and how long a step waits for its clips."""

from __future__ import annotations

import time
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.measuring import GIB, TERA, copy_rate, matrix_rate, measure
from benchmarks.gpu.part_checks import small_wan_vae
from benchmarks.gpu.rows import Notes, Place
from benchmarks.gpu.small_models import open_up, small_vae
from benchmarks.matrix_rate import data_sheet_rate
from components.codecs.video.causal_vae.codec import CausalVideoCodec
from components.codecs.video.causal_vae.model import CausalVideoVAE
from components.codecs.video.wan import WanVideoCodec
from components.contracts import ClipBatch, VideoCodec
from components.counting.coding_peaks import VideoSize, decoding_peak, encoding_peak
from components.media.clock import ClipShape


def measure_card(place: Place, notes: Notes) -> None:
    """Matrix products in both precisions and a copy: what all other figures are held against."""
    notes.value(bfloat16_tflop_per_s=matrix_rate(place) / TERA)
    notes.value(float32_tflop_per_s=matrix_rate(place, torch.float32) / TERA)
    promised = data_sheet_rate(place.device, torch.bfloat16)
    notes.value(data_sheet_tflop_per_s=None if promised is None else promised / TERA)
    notes.value(copy_gb_per_s=copy_rate(place) / 1e9)


def measure_causal_vae(place: Place, notes: Notes) -> None:
    """Pyramid Flow's public architecture in bfloat16 on one clip of 121 frames of 384x640."""
    if place.is_rehearsal:
        measure_codec(small_vae(), None, VideoSize(1, 17, 32, 32), place, notes)
        return
    with torch.device("meta"):
        shapes = CausalVideoCodec(CausalVideoVAE().to(torch.bfloat16), clips_at_once=1)
        vae = CausalVideoVAE().to(torch.bfloat16)
    vae.to_empty(device=place.device)
    open_up(vae, torch.Generator(place.device).manual_seed(0))
    measure_codec(CausalVideoCodec(vae, clips_at_once=1), shapes, VideoSize(1, 121, 384, 640), place, notes)


def measure_wan_vae(place: Place, notes: Notes) -> None:
    """Wan2.2's architecture in bfloat16 on one clip of 121 frames of 480x832."""
    if place.is_rehearsal:
        measure_codec(small_wan_vae(place), None, VideoSize(1, 9, 64, 64), place, notes)
        return
    with torch.device("meta"):  # no folder of this name: the public architecture, as shapes
        shapes, codec = (WanVideoCodec("public/architecture", dtype="bfloat16") for _ in range(2))
    codec.to_empty(device=place.device)
    open_up(codec.vae, torch.Generator(place.device).manual_seed(0))
    codec.mean.zero_()
    codec.std.fill_(1.0)
    measure_codec(codec, shapes, VideoSize(1, 121, 480, 832), place, notes)


@torch.no_grad()
def measure_codec(codec: VideoCodec, shapes: VideoCodec | None, size: VideoSize, place: Place, notes: Notes) -> None:
    """Encodes and decodes noise; memory beside the counted peak of the same codec on the meta device."""
    video = torch.rand(size.clips, size.frames, 3, size.height, size.width, device=place.device).mul_(2).sub_(1)
    latents: Tensor = codec.encode(video)
    notes.value(video=str(size), latents=str(list(latents.shape)))
    notes.require("latents are finite", bool(latents.isfinite().all()))
    measure("encode", partial(codec.encode, video), place, notes, rounds=3)
    noise = torch.randn_like(latents)
    measure("decode", partial(codec.decode, noise), place, notes, rounds=3)
    if shapes is not None:
        weights = sum(parameter.numel() * parameter.element_size() for parameter in codec.parameters())
        given = {"encode": encoding_peak(shapes, size) + video.nbytes, "decode": decoding_peak(shapes, size)}
        for name, held in given.items():
            notes.value(**{f"counted_{name}_peak_gib": (held + weights) / GIB})


def measure_data_wait(place: Place, notes: Notes) -> None:
    """121 frames of 384x640 from files: seconds per batch of four, and how long steps of half a second wait."""
    from datamodules.procedural_clips import ProceduralClips

    toy = place.is_rehearsal
    shape = ClipShape(25, 24.0, 32, 32, 16_000) if toy else ClipShape(121, 24.0, 384, 640, 16_000)
    data = ProceduralClips(
        root=str(place.new_folder("data_wait")),
        num_train=4,
        num_test=1,
        train_duration_s=2.1 if toy else 5.2,
        clip=shape,
        batch_size=4,
        val_batch_size=1,
        num_workers=1 if toy else 8,
        cache=False,
    )
    begin = time.perf_counter()
    data.prepare_data()
    notes.value(rendering_s=time.perf_counter() - begin)
    data.setup("fit")
    loader = data.train_dataloader()
    batches = iter(loader)
    begin = time.perf_counter()
    next(batches)
    notes.value(first_batch_s=time.perf_counter() - begin, workers=loader.num_workers, pinned=loader.pin_memory)
    rounds, step_s = (2, 0.1) if toy else (8, 0.5)
    begin = time.perf_counter()
    for _ in range(rounds):
        next(batches)
    notes.value(batch_s=(time.perf_counter() - begin) / rounds)
    waited = moving = 0.0
    for _ in range(rounds):
        begin = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - begin
        begin = time.perf_counter()
        assert isinstance(batch, ClipBatch)
        batch.to(place.device)
        place.wait()
        moving += time.perf_counter() - begin
        time.sleep(step_s)
    notes.value(step_s=step_s, wait_ms=1000 * waited / rounds, to_device_ms=1000 * moving / rounds)
