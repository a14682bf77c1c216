"""Random windows out of long recordings: our clip reader against bare PyAV, and its memory over many clips.

Bare PyAV seeks to the key frame before the window and decodes from there to the window's end, picture and sound: no
output rate, no crop, no check that what it got is what was asked for. The reader does all of that. Memory is what this
process holds after each tenth of ``--clips``: ``--clips 10000 --minutes 2 --recordings 5`` shows every thousandth clip.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from benchmarks.measure import add_timing_arguments, clock_name, interleaved, machine_facts, print_table, ratio
from components.media.reader import read_clip

BARE, OURS = "bare PyAV", "read_clip"


def write_recording(path: Path, seconds: float, fps: int, height: int, width: int, rate: int) -> None:
    """H.264 with a key frame every two seconds and AAC: a pattern that moves, a tone that wavers; frame by frame."""
    rows, columns = np.mgrid[:height, :width]
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", fps, options={"preset": "ultrafast", "crf": "23", "g": str(2 * fps)})
        video.height, video.width, video.pix_fmt = height, width, "yuv420p"
        sound = container.add_stream("aac", rate, layout="mono")
        for index in range(round(seconds * fps)):
            plane = ((rows + 2 * columns + 5 * index) % 256).astype(np.uint8)
            for packet in video.encode(av.VideoFrame.from_ndarray(np.stack([plane] * 3, axis=-1), format="rgb24")):
                container.mux(packet)
        container.mux(video.encode(None))
        for begin in range(0, round(seconds * rate), 1024):
            times = np.arange(begin, begin + 1024) / rate
            samples = (0.3 * np.sin(2 * np.pi * (300 + 50 * np.sin(times)) * times)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, begin, Fraction(1, rate)
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def bare_window(path: Path, start_s: float, seconds: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pictures and sound blocks of a window, one decoder thread."""
    with av.open(path) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        video.codec_context.thread_count = 1
        container.seek(int(start_s * av.time_base))
        frames, blocks = [], []
        for frame in container.decode(video, sound):
            if not isinstance(frame, av.VideoFrame | av.AudioFrame) or frame.time is None or frame.time < start_s:
                continue
            if isinstance(frame, av.VideoFrame):
                if frame.time >= start_s + seconds:
                    break
                frames.append(frame.to_ndarray(format="rgb24", threads=1))
            else:
                blocks.append(frame.to_ndarray()[0])
    return frames, blocks


def _resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the recording, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0, help="length of a recording")
    parser.add_argument("--recordings", type=int, default=1, help="files whose windows take turns")
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--fps", type=int, default=24)
    parser.add_argument("--sample-rate", type=int, default=16000)
    parser.add_argument("--windows", type=int, default=20, help="windows per round")
    parser.add_argument("--frames", type=int, default=49, help="frames per window")
    parser.add_argument("--clips", type=int, default=200, help="clips over which memory is watched")
    add_timing_arguments(parser, repeats=5)
    args = parser.parse_args(argv)
    fps, size, rate = args.fps, (args.height, args.width), args.sample_rate
    seconds = args.frames / fps
    draw = random.Random(0)
    last = 60 * args.minutes - seconds

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"recording_{index}.mp4" for index in range(args.recordings)]
        for path in paths:
            write_recording(path, 60 * args.minutes, fps, *size, rate)
        starts = [(paths[index % len(paths)], draw.uniform(0, last)) for index in range(args.windows)]
        actions: dict[str, Callable[[], object]] = {
            BARE: lambda: [bare_window(path, start, seconds) for path, start in starts],
            OURS: lambda: [read_clip(path, start, args.frames, fps, *size, rate) for path, start in starts],
        }
        spent = interleaved(actions, args)
        marks = [args.clips * tenth // 10 for tenth in range(1, 11)]
        resident: dict[int, int] = {}
        for index in range(1, args.clips + 1):
            read_clip(paths[index % len(paths)], draw.uniform(0, last), args.frames, fps, *size, rate)
            if index in marks:
                resident[index] = _resident()

    print(machine_facts("cpu", "one decoder thread"))
    print(
        f"random windows of {seconds:.2f} s out of {args.recordings} x {args.minutes:g} minutes, {size[0]}x{size[1]} "
        f"at {fps} fps, H.264 with a key frame every 2 s + AAC at {rate} Hz"
    )
    rows = []
    for name in actions:
        per_window = statistics.median(spent[name]) / args.windows
        rows.append([name, f"{1000 * per_window:.1f} ms", f"{ratio(spent[BARE], spent[name]):.2f}"])
    print_table(["reading", f"{clock_name(args)} per window", "ratio to bare PyAV"], rows)
    first = next(iter(resident.values()))
    held = [[f"{clip}", f"{of / 2**20:.1f} MiB", f"{(of - first) / 2**20:+.1f} MiB"] for clip, of in resident.items()]
    print_table(["clips read", "resident memory", "since the first row"], held)


if __name__ == "__main__":
    main()
