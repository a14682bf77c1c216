"""Training clips per second and core: read from recordings, read from a cache, and bare PyAV on the same recordings.

Clips are the full Syncphony experiment's: 5 s of 384x640 at 24 fps with sound at 16 kHz, at random places of longer
recordings. Bare PyAV only decodes the window (see ``random_windows``). The loader reads it as training does: clock,
size, crop, checks, collation. The cache holds tensors of the shapes and dtype that ``avsync prepare`` writes of such a
clip; what they hold does not matter to how fast they are read. Of one core:
``OMP_NUM_THREADS=1 python -m benchmarks.loading``.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.measure import add_timing_arguments, clock_name, interleaved, machine_facts, print_table, ratio
from benchmarks.random_windows import bare_window, write_recording
from components.media.clock import ClipShape
from datamodules.folder_clips import FolderClips
from datamodules.prepared.prepared_clip import PreparedClip
from datamodules.prepared.store import Plan, Store
from datamodules.reading.cached_latents import CachedLatents, collate_prepared
from datamodules.reading.clip_dataset import collate_clips
from datamodules.reading.clip_facts import facts_of_clips
from datamodules.reading.order import SampleKey

BARE, RAW, CACHED = "bare PyAV", "from recordings", "from a cache"


def encoded(name: str, shape: ClipShape, dtype: torch.dtype) -> PreparedClip:
    """A clip as the full Syncphony experiment keeps it: posterior moments, DenseAV's tokens, two texts."""
    latents = (16, 1 + (shape.num_frames - 1) // 8, shape.height // 8, shape.width // 8)
    sounds = round(50 * shape.num_frames / shape.fps)
    tensors = {
        "video": torch.randn(latents),
        "video_std": torch.rand(latents),
        "features": torch.randn(sounds, 768),
        "caption.tokens": torch.randn(128, 4096),
        "caption.pooled": torch.randn(768),
    }
    clip = PreparedClip(
        id=name,
        video_id=name,
        num_frames=shape.num_frames,
        num_samples=shape.num_samples,
        rate_hz=50.0,
        tensors=tensors,
    ).narrow(dtype)
    return PreparedClip(
        **{**vars(clip), "tensors": {**clip.tensors, "features_mask": torch.ones(sounds, dtype=torch.bool)}}
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Writes recordings and a cache, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a recording")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--frames", type=int, default=121)
    parser.add_argument("--size", type=int, nargs=2, default=(384, 640), help="rows and columns")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16", help="of the cache")
    add_timing_arguments(parser, repeats=5)
    args = parser.parse_args(argv)
    height, width = args.size
    shape = ClipShape(args.frames, 24.0, height, width, 16000)

    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "recordings", Path(folder) / "cache"
        root.mkdir()
        names = [f"{index}.mp4" for index in range(args.recordings)]
        for name in names:
            write_recording(root / name, args.seconds, 24, height, width, 16000)
        shutil.copy(root / names[0], root / "held_out.mp4")
        (root / "test_list.txt").write_text("held_out\n")
        data = FolderClips(str(root), "a sound", test_list=str(root / "test_list.txt"), clip=shape, num_workers=0)
        clips = data.training_clips()
        facts = facts_of_clips(data.clip_settings(), clips.records, 1)
        plan = Plan({}, facts, {}, 1, args.recordings, args.recordings + 1, args.dtype)
        store = Store(cache, plan)
        items = [encoded(record.video_id, shape, getattr(torch, args.dtype)) for record in clips.records]
        texts = {name: tensor for name, tensor in items[0].tensors.items() if name.startswith("caption")}
        store.write(0, [item.to_bytes() for item in [*items, PreparedClip(tensors=texts)]])
        store.finish()
        cached = CachedLatents(str(cache), 0, facts)
        counter = iter(range(10**9))
        draws = random.Random(0)

        def keys() -> list[SampleKey]:
            positions = [next(counter) for _ in range(args.batch_size)]
            return [SampleKey(position % args.recordings, position) for position in positions]

        def bare() -> None:
            for key in keys():
                start = draws.uniform(0, args.seconds - shape.duration_s)
                bare_window(root / names[key.item], start, shape.duration_s)

        def raw() -> None:
            collate_clips([clips[key] for key in keys()], shape)

        def from_cache() -> None:
            collate_prepared([cached[key] for key in keys()], shape)

        actions: dict[str, Callable[[], object]] = {BARE: bare, RAW: raw, CACHED: from_cache}
        seconds = interleaved(actions, args)

    print(machine_facts("cpu", args.dtype))
    size = len(items[0].to_bytes()) / 2**20
    print(f"clips of {args.frames} frames of {height}x{width}, {size:.1f} MiB each in the cache")
    rows = []
    for name, times in seconds.items():
        per_clip = statistics.median(times) / args.batch_size
        cells = [f"{1000 * per_clip:.1f} ms", f"{1 / per_clip:.1f}", f"{ratio(seconds[BARE], times):.2f}"]
        rows.append([name, *cells])
    print_table(["training clips", f"{clock_name(args)} per clip", "clips/s per core", "speed of bare PyAV"], rows)


if __name__ == "__main__":
    main()
