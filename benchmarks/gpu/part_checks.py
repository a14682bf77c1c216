"""Whether codecs, judges, the windowed attention and the loader do on a card what they do on a CPU."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.rows import ROOT, Notes, Place, relative_difference
from benchmarks.gpu.small_models import CLOCK, drawn, exact_products, open_up, small_vae
from components.backbones.harmony.frame_band import BandConfig, Kernel, TokenShape, frame_bands
from components.codecs.audio.mmaudio import MMAudioCodec
from components.codecs.audio.mmaudio_checkpoint import VARIANTS, build_vocoder
from components.codecs.video.wan import PUBLIC_ARCHITECTURE, WanVideoCodec
from components.contracts import ClipBatch, VideoCodec
from components.media.clock import ClipShape
from components.metrics.cyclesync.metric import CycleSync
from components.metrics.cyclesync.onsets import OnsetDetector
from components.metrics.syncnet.model import SyncNet
from components.metrics.syncnet.scorer import SyncNetScorer
from components.v2a.onset_v2a import OnsetV2A

CODEC, CODEC_HALF = 1e-4, 6e-2


def moving_video(clips: int, frames: int, height: int, width: int) -> Tensor:
    """A bright square that jumps over noise, in [0, 1]: ``[B, T, 3, H, W]``."""
    video = 0.2 * torch.rand(clips, frames, 3, height, width, generator=torch.Generator().manual_seed(1))
    for clip in range(clips):
        for frame in range(frames):
            row = (frame // (6 + 2 * clip)) % 4 * height // 6
            video[clip, frame, :, row : row + height // 4, width // 4 : width // 2] += 0.7
    return video


def check_video_codec(codec: VideoCodec, place: Place, notes: Notes, frames: int, side: int) -> None:
    """Latents and pixels; a second clip must not see the first; bfloat16 beside float32."""
    video = moving_video(2, frames, side, side).mul(2).sub(1)
    with torch.no_grad(), exact_products():
        latents = codec.encode(video)
        pixels = codec.decode(latents)
        on_device = copy.deepcopy(codec).to(place.device)
        got = on_device.encode(video.to(place.device))
        notes.compare("latents", relative_difference([got], [latents]), CODEC)
        decoded = on_device.decode(latents.to(place.device))
        notes.compare("pixels", relative_difference([decoded], [pixels]), CODEC)
        alone = on_device.encode(video[1:].to(place.device))
        notes.compare("a clip alone", relative_difference([alone], [got[1:]]), CODEC)
        with torch.autocast(place.backend, torch.bfloat16):  # codecs keep to their own precision
            again = on_device.encode(video.to(place.device))
        notes.compare("under autocast", relative_difference([again], [got]), 1e-5)
    network = on_device.get_submodule("vae").to(torch.bfloat16)
    notes.require("bfloat16 weights", next(network.parameters()).dtype == torch.bfloat16)
    with torch.no_grad():
        notes.compare(
            "latents in bfloat16",
            relative_difference([on_device.encode(video.to(place.device))], [latents]),
            CODEC_HALF,
        )


def check_causal_vae(place: Place, notes: Notes) -> None:
    """Pyramid Flow's VAE, windows of 8 frames."""
    codec = small_vae()
    codec.encode_window = 8
    open_up(codec, seed=2)
    check_video_codec(codec, place, notes, frames=17, side=32)


def small_wan_vae(place: Place) -> WanVideoCodec:
    """Wan2.2's VAE, narrow, through a folder in diffusers' layout."""
    from diffusers import AutoencoderKLWan

    folder = place.new_folder("wan_vae")
    torch.manual_seed(3)
    narrow = {"base_dim": 8, "decoder_base_dim": 8, "z_dim": 4, "latents_mean": [0.1] * 4, "latents_std": [0.9] * 4}
    network: Any = AutoencoderKLWan(**{**PUBLIC_ARCHITECTURE, **narrow})
    network.save_pretrained(folder)
    return WanVideoCodec(folder, None)


def check_wan_vae(place: Place, notes: Notes) -> None:
    """Wan2.2's VAE, narrow."""
    check_video_codec(small_wan_vae(place), place, notes, frames=9, side=64)


def check_mmaudio(place: Place, notes: Notes) -> None:
    """MMAudio's VAE and vocoder, narrow."""
    from diffusers import MMAudioVAE

    folder = place.new_folder("mmaudio")
    torch.manual_seed(4)
    vae: Any = MMAudioVAE(**{**VARIANTS["16k"].vae, "hidden_channels": 64})
    narrow = {**VARIANTS["16k"].vocoder, "upsample_initial_channel": 64}
    vocoder = build_vocoder(narrow, final_bias=True, final_tanh=True)
    vae.save_pretrained(folder / "vae")
    vocoder.save_pretrained(folder / "vocoder")
    codec = MMAudioCodec(folder / "vae", folder / "vocoder", "16k")
    sound = 0.1 * drawn(2, 32 * codec.latent_hop, seed=5)
    with torch.no_grad(), exact_products():
        latents = codec.encode(sound)
        wave = codec.decode(latents)
        on_device = copy.deepcopy(codec).to(place.device)
        got = on_device.encode(sound.to(place.device))
        notes.compare("latents", relative_difference([got], [latents]), 5 * CODEC)
        notes.compare("sound", relative_difference([on_device.decode(latents.to(place.device))], [wave]), 5 * CODEC)
        silence = relative_difference([on_device.silence(8)], [codec.silence(8)])
        notes.compare("silence", silence, 5 * CODEC)


def check_syncnet(place: Place, notes: Notes) -> None:
    """Embeddings and scores of the shipped small SyncNet."""
    folder = str(ROOT / "configs/weights/quickstart_syncnet")
    video, sound = moving_video(2, 61, 64, 64), 0.1 * drawn(2, 41_000, seed=6)
    found = {}
    with exact_products():
        for device in ("cpu", place.device):
            scorer = SyncNetScorer(SyncNet.from_pretrained(folder)).to(device).eval()
            frames, wave = video.to(device), sound.to(device)
            tracks = [track.embeddings for lips in scorer.lips(frames, 24.0) for track in lips]
            embedded, scores = scorer.sounds(wave, 16_000), scorer(frames, 24.0, wave, 16_000)
            on_device = all(value.device == frames.device for value in (*tracks, embedded, *scores.values()))
            found[device if device == "cpu" else "device"] = (tracks, embedded, scores)
            notes.require(f"results stay on the {'CPU' if device == 'cpu' else 'device'}", on_device)
    wanted, got = found["cpu"], found.get("device", found["cpu"])
    notes.compare("lips", relative_difference(got[0], wanted[0]), CODEC)
    notes.compare("sounds", relative_difference([got[1]], [wanted[1]]), CODEC)
    for name in ("sync_c", "sync_d"):
        notes.compare(name, relative_difference([got[2][name]], [wanted[2][name]]), 10 * CODEC)
    notes.value(sync_c=float(wanted[2]["sync_c"].mean()), sync_d=float(wanted[2]["sync_d"].mean()))


def check_cyclesync(place: Place, notes: Notes) -> None:
    """From video to sound, onsets and score with the shipped small judge."""
    folder = ROOT / "configs/weights/quickstart_v2a"
    video = moving_video(2, 49, 32, 32)
    curves, onsets, scores = [], [], []
    with exact_products():
        for device in ("cpu", place.device):
            judge = OnsetV2A.from_pretrained(folder).to(device)
            frames = video.to(device)
            curves.append(judge.curve(frames, 24.0))
            generators = [torch.Generator().manual_seed(8 + clip) for clip in range(2)]  # as the callback's
            sound, rate = judge(frames, 24.0, None, generators)
            notes.require(f"sound on {device}", sound.device == frames.device)
            heard = OnsetDetector()(sound, rate, 49 / 24)
            onsets.append(heard)
            metric = CycleSync(num_videos=2, sync_on_compute=False).to(device)
            metric.update(onsets[0], heard, [0, 1], torch.tensor([True, True], device=device))
            metric.update_from_audio((sound, rate), (sound, rate), [0, 1])
            scores.append(metric.compute()["value"].item())
    notes.compare("onset curves", relative_difference(curves[1:], curves[:1]), CODEC)
    notes.require("as many onsets", [len(row) for row in onsets[0]] == [len(row) for row in onsets[1]])
    notes.compare("score", abs(scores[1] - scores[0]) / 100, 1e-6)
    notes.value(num_onsets=sum(len(row) for row in onsets[0]), cyclesync=scores[0])


def check_flex_attention(place: Place, notes: Notes) -> None:
    """The three kernels of the windowed attention both ways, forward and backward; compiled on a card alone."""
    cases = [("small", TokenShape((8, 8, 12), 40), torch.float32)]
    if not place.is_rehearsal:  # what the experiments run; every case compiles four kernels
        cases.append(("480x832x121", TokenShape((31, 15, 26), 157), torch.bfloat16))
    for label, shape, dtype in cases:
        allowed = {torch.float32: 5e-4, torch.bfloat16: 2e-2}[dtype]  # a compiled kernel may use TF32
        kernels: Sequence[Kernel] = ("banded", "gather", "flex")
        with exact_products():
            found = {kernel: attended(kernel, shape, dtype, place) for kernel in kernels}
        for kernel in kernels[1:]:
            for way, (got, wanted) in enumerate(zip(found[kernel], found["banded"], strict=True)):
                name = f"{kernel}, {label}, {str(dtype)[6:]}, {('video', 'sound')[way]} queries"
                notes.compare(name, relative_difference(got[:1], wanted[:1]), allowed)
                if len(got) > 1:
                    notes.compare(f"{name}, gradients", relative_difference(got[1:], wanted[1:]), 2 * allowed)


def attended(kernel: Kernel, shape: TokenShape, dtype: torch.dtype, place: Place) -> list[list[Tensor]]:
    """Result and gradients of queries, keys and values for both directions; no gradients of FlexAttention on a CPU."""
    heads, head_dim = 2, 128  # the experiments' width of a head
    bands = frame_bands(CLOCK, "linear", BandConfig(1.0, kernel), shape, head_dim, torch.device(place.device))
    tokens = (shape.grid[0] * shape.grid[1] * shape.grid[2], shape.num_audio)
    made = []
    for band, (queries, keys) in zip(bands, (tokens, tokens[::-1]), strict=True):
        given = [drawn(1, heads, n, head_dim, seed=120 + i) for i, n in enumerate((queries, keys, keys))]
        q, k, v = (x.to(place.device, dtype) for x in given)
        if kernel == "flex" and place.is_rehearsal:
            made.append([band.attend(q, k, v)])
            continue
        q, k, v = (x.requires_grad_() for x in (q, k, v))
        out = band.attend(q, k, v)
        weight = drawn(*out.shape, seed=130).to(place.device, dtype)
        gradients = torch.autograd.grad((out * weight).sum(), (q, k, v))
        made.append([out.detach(), *gradients])
    return made


def check_loader(place: Place, notes: Notes) -> None:
    """Clips rendered to real files, read by worker processes and brought to the device as they were read."""
    from datamodules.procedural_clips import ProceduralClips

    data = ProceduralClips(
        root=str(place.new_folder("clips")),
        num_train=4,
        num_test=2,
        train_duration_s=2.1,
        clip=ClipShape(num_frames=25, fps=24.0, height=32, width=32, sample_rate=16_000),
        batch_size=4,
        val_batch_size=2,
        num_workers=2,
    )
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    batches, begin = iter(loader), time.perf_counter()
    for number in range(3):
        batch = next(batches)
        assert isinstance(batch, ClipBatch)
        arrived = batch.to(place.device, non_blocking=True)
        place.wait()
        notes.require(f"batch {number} on the device", str(arrived.video.device) == place.device)
        notes.require(f"batch {number} unchanged", bool((arrived.video.cpu() == batch.video).all()))
    notes.value(three_batches_s=time.perf_counter() - begin, pinned=loader.pin_memory, workers=loader.num_workers)
