"""The program that `SubprocessV2A` starts in another environment: a list of mp4 files in, a wav file for each out.

    python program.py vaura --checkout V-AURA --experiment 24-08-01T08-34-26 --avclip epoch_best.pt jobs.json
    python program.py mmaudio --weights MMAudio --variant small_44k jobs.json

Without the list it only looks whether all that it needs is there. With ``--stay`` it takes the paths of further lists
from standard input, a line each, says ``done`` when a list is, and ends with its input. It runs where this package is
not installed: it needs Python 3.8, PyTorch, NumPy and PyAV, which both models have.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import wave
from collections.abc import Iterator
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

MODELS = {"vaura": ("vaura_model", "VAura"), "mmaudio": ("mmaudio_model", "MMAudio")}
"""Name on the command line -> the module beside this file and its class.

A class has ``add_arguments(parser)``, ``complaint(arguments)`` (a sentence, or None; quick), is made of the arguments,
and turns a `Clip` into a waveform ``[S]`` and its sample rate.
"""

JOB_KEYS = ("id", "video", "audio", "fps", "num_frames", "duration_s", "caption", "seed")


class Clip:
    """Frames of one clip and what belongs to them.

    Args:
        frames: pictures, uint8 ``[T, 3, H, W]``.
        fps: frames per second.
        caption: what is to be heard, or nothing.
        seed: decides all that is drawn for this clip.
    """

    def __init__(self, frames: Tensor, fps: float, caption: str = "", seed: int = 0) -> None:
        self.frames, self.fps, self.caption, self.seed = frames, fps, caption, seed

    @property
    def duration_s(self) -> float:
        """Seconds that the frames last."""
        return len(self.frames) / self.fps

    def at(self, fps: float, count: int) -> Clip:
        """``count`` frames at another rate: each the nearest in time; past the end the last one stands still."""
        # halves upwards: round() would take every other one downwards, and a rate twice as high would limp
        nearest = [min(floor(index * self.fps / fps + 0.5), len(self.frames) - 1) for index in range(count)]
        return Clip(self.frames[nearest], fps, self.caption, self.seed)

    def resized(self, height: int, width: int, mode: str) -> Clip:
        """All frames squeezed to a size, by ``bilinear`` or ``bicubic`` interpolation without aliases."""
        # bytes on the CPU, as both models' own scripts do it: their kernel rounds and cuts between its two passes
        frames = [
            interpolate(frame[None].cpu(), (height, width), mode=mode, align_corners=False, antialias=True)
            for frame in self.frames
        ]
        return Clip(torch.cat(frames), self.fps, self.caption, self.seed)

    def centre(self, short_side: int, side: int, mode: str) -> Clip:
        """The shorter side brought to ``short_side``, the longer one in proportion, then the square in the middle."""
        height, width = self.frames.shape[-2:]
        sizes = [short_side * length // min(height, width) for length in (height, width)]
        clip = self.resized(sizes[0], sizes[1], mode)
        top, left = (round((length - side) / 2) for length in sizes)
        clip.frames = clip.frames[..., top : top + side, left : left + side]
        return clip


def read_jobs(file: Path) -> list[dict[str, Any]]:
    """The entries of the list.

    Raises:
        SystemExit: if it is no such list, with a sentence.
    """
    try:
        jobs = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"{file}: cannot be read as a JSON list of clips: {error}")
    if not isinstance(jobs, list) or not jobs:
        sys.exit(f"{file}: has to be a list of at least one clip")
    for index, job in enumerate(jobs):
        missing = [key for key in JOB_KEYS if not isinstance(job, dict) or key not in job]
        if missing:
            sys.exit(f"{file}: entry {index} has no '{missing[0]}'; an entry has {', '.join(JOB_KEYS)}")
        if not job["fps"] > 0:
            sys.exit(f"{file}: fps of '{job['id']}' is {job['fps']}; it has to be positive")
    return jobs


def read_clip(job: dict[str, Any]) -> Clip:
    """Decodes the video of an entry.

    Raises:
        SystemExit: if it has not the frames that the entry says.
    """
    import av  # here: reading the list needs no decoder

    with av.open(job["video"]) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    if not frames or len(frames) != job["num_frames"]:
        sys.exit(f"{job['video']}: has {len(frames)} frames where the list says {job['num_frames']}")
    return Clip(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2), job["fps"], job["caption"], int(job["seed"]))


def write_sound(file: Path, sound: Tensor, rate: int, duration_s: float) -> None:
    """The first ``duration_s`` of a waveform ``[S]`` as 16-bit wav, which appears whole or not at all.

    Raises:
        SystemExit: if it holds a value that is no number.
    """
    samples = sound[: round(duration_s * rate)].float().cpu()
    if not bool(torch.isfinite(samples).all()):
        sys.exit(f"{file.stem}: the model made a sound that holds NaN or infinite values")
    partial = file.with_name("." + file.name + ".part")
    with partial.open("wb") as stream, wave.open(stream, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes((samples.clamp(-1, 1) * 32767).round().numpy().astype("<i2").tobytes())
    partial.replace(file)


def lists(given: argparse.Namespace) -> Iterator[Path]:
    """The list of the command line and, for a program that stays, those of its standard input."""
    if given.jobs is not None:
        yield given.jobs
    if given.stay:
        for line in sys.stdin:
            yield Path(line.rstrip("\n"))


def main() -> None:
    """Reads a list, loads the model once and writes a sound for every clip, list after list."""
    name = "".join(sys.argv[1:2])
    if name not in MODELS:
        sys.exit(f"the first argument is '{name}'; it has to be {' or '.join(MODELS)}")
    module, kind = MODELS[name]
    # only the one asked for: the other's environment is not here
    model_class = getattr(importlib.import_module(module), kind)
    parser = argparse.ArgumentParser(f"program.py {name}", description="Sounds for silent videos.")
    model_class.add_arguments(parser)
    parser.add_argument("jobs", type=Path, nargs="?", help="JSON list of the clips; without it nothing is made")
    parser.add_argument("--stay", action="store_true", help="take further lists from standard input, a path a line")
    given = parser.parse_args(sys.argv[2:])
    complaint = model_class.complaint(given)
    if complaint:
        sys.exit(complaint)
    model = None
    for file in lists(given):
        jobs = read_jobs(file)
        for job in jobs:
            # a model may need a working directory of its own
            job["video"], job["audio"] = (str(Path(job[key]).absolute()) for key in ("video", "audio"))
        if model is None:
            model = model_class(given)
        for job in jobs:
            clip = read_clip(job)
            try:
                sound, rate = model(clip)
            except Exception as error:
                raise RuntimeError(f"{job['id']} of {len(clip.frames)} frames: {error}") from error
            write_sound(Path(job["audio"]), sound, rate, job["duration_s"])
        if given.stay:
            sys.stdout.write("\ndone\n")  # on a line of its own, whatever the model left on the last one
            sys.stdout.flush()


if __name__ == "__main__":
    main()
