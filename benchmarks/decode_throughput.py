"""Our clip reader against bare PyAV on the same rendered mp4 files: clips per second.

Bare PyAV decodes every frame and sound block of the file and turns them into RGB and float arrays: no time stamps, no
resampling to an output rate, no crop, no errors a person can read. The reader does all of that for the same clip.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np

from benchmarks.measure import add_timing_arguments, clock_name, interleaved, machine_facts, print_table, ratio
from components.media.clock import ClipShape
from components.media.reader import read_audio, read_clip, read_video
from datamodules.procedural_clips import ProceduralClips

BARE, THREADS, OURS, TWICE = "bare PyAV", "bare PyAV, default threads", "read_clip", "read_video + read_audio"


def bare_pyav(path: Path, threads: int | None = 1) -> tuple[np.ndarray, np.ndarray]:
    """Frames ``[T, H, W, 3]`` and sound ``[S]`` of a whole file.

    Args:
        path: the file.
        threads: of the colour conversion; None leaves PyAV's default, which starts threads for every frame.
    """
    convert = {"format": "rgb24"} if threads is None else {"format": "rgb24", "threads": threads}
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames, sound = [], []
        for frame in container.decode(video=0, audio=0):
            if isinstance(frame, av.VideoFrame):
                frames.append(frame.to_ndarray(**convert))
            elif isinstance(frame, av.AudioFrame):
                sound.append(frame.to_ndarray()[0])
    return np.stack(frames), np.concatenate(sound)


def main(argv: Sequence[str] | None = None) -> None:
    """Renders, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--fps", type=float, default=24.0)
    parser.add_argument("--size", type=int, default=128, help="rows and columns")
    parser.add_argument("--sample-rate", type=int, default=16000)
    add_timing_arguments(parser, repeats=5)
    args = parser.parse_args(argv)
    fps, size, rate = args.fps, args.size, args.sample_rate
    samples = round(args.frames / fps * rate)

    with tempfile.TemporaryDirectory() as folder:
        data = ProceduralClips(
            folder,
            num_train=1,
            num_test=args.clips,
            train_duration_s=args.frames / fps,
            clip=ClipShape(args.frames, fps, size, size, rate),
        )
        data.prepare_data()
        paths = [record.path for record in data.records("test")]

        def ours() -> None:
            for path in paths:
                read_clip(path, 0.0, args.frames, fps, size, size, rate)

        def twice() -> None:
            for path in paths:
                read_video(path, 0.0, args.frames, fps, size, size)
                read_audio(path, 0.0, samples, rate)

        def bare() -> None:
            for path in paths:
                bare_pyav(path)

        def bare_with_threads() -> None:
            for path in paths:
                bare_pyav(path, threads=None)

        actions: dict[str, Callable[[], object]] = {
            BARE: bare,
            THREADS: bare_with_threads,
            OURS: ours,
            TWICE: twice,
        }
        seconds = interleaved(actions, args)

    print(machine_facts("cpu", "one decoder thread"))
    print(f"{args.clips} files of {args.frames} frames, {size}x{size} at {fps:g} fps, H.264 + AAC at {rate} Hz")
    rows = []
    for name in actions:
        per_clip = statistics.median(seconds[name]) / args.clips
        ours_by_bare = ratio(seconds[BARE], seconds[name])
        rows.append([name, f"{1000 * per_clip:.1f} ms", f"{1 / per_clip:.1f} clips/s", f"{ours_by_bare:.2f}"])
    print_table(["decoding", f"{clock_name(args)} per clip", "throughput", "ratio to bare PyAV"], rows)


if __name__ == "__main__":
    main()
