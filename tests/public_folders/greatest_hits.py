"""The Greatest Hits in small: a mallet on a bar, recorded at 30 fps with two microphones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from components.media.writer import write_mp4, write_wav
from datamodules.procedural.scenes import Event, striking_mallet
from datamodules.procedural.sounds import render_sound
from datamodules.procedural_clips import draw_events

FPS, RATE = 30, 96_000
Form = Literal["vis-data", "vis-data-256", "asva"]


@dataclass(frozen=True)
class GreatestHitsFolder:
    """What was written: the folder of the lists, that of the recordings, and each recording's true onsets."""

    root: Path
    recordings: Path
    train: list[str]
    test: list[str]
    onsets: dict[str, tuple[float, ...]]


def write_greatest_hits(
    root: Path,
    form: Form = "vis-data-256",
    num_train: int = 2,
    num_test: int = 2,
    seconds: float = 4.0,
    height: int = 32,
    width: int = 56,
    sound_in_mp4: bool = True,
    wavs: bool = True,
) -> GreatestHitsFolder:
    """Writes lists, recordings and (but for AVSyncD's form, "asva") times files.

    Every second id has a fourth field. Each times file ends with a row of action None, which is no onset; materials
    are partly unknown and actions alternate between hit and scratch.
    """
    recordings = root / "videos" if form == "asva" else root
    recordings.mkdir(parents=True)
    written = GreatestHitsFolder(root, recordings, [], [], {})
    for number in range(num_train + num_test):
        name = f"2015-02-16-16-49-{number:02d}" + ("-197" if number % 2 else "")
        (written.train if number < num_train else written.test).append(name)
        rng = np.random.default_rng(number)
        events = draw_events(seconds, rng)
        written.onsets[name] = tuple(round(event.time_s, 6) for event in events)
        frames = striking_mallet(events, np.arange(round(seconds * FPS)) / FPS, height, width, 0.5, rng)
        denoised = torch.from_numpy(
            render_sound("striking_mallet", events, round(seconds * RATE), RATE, 0.5, np.random.default_rng(number))
        )
        hum = 0.01 * torch.sin(2 * torch.pi * 50 * torch.arange(len(denoised)) / RATE)
        for track, audio in (("denoised", denoised), ("mic", 0.5 * denoised + hum)):
            if form == "vis-data" or track == "denoised":
                ending = ".mp4" if form == "vis-data" else "_thumb.mp4"
                sound = audio if sound_in_mp4 else None
                write_mp4(recordings / f"{name}_{track}{ending}", torch.from_numpy(frames), FPS, sound, RATE)
            if wavs and form != "asva":
                write_wav(recordings / f"{name}_{track}.wav", audio, RATE)
        if form != "asva":
            write_times(recordings / f"{name}_times.txt", events, seconds)
    for split, names in (("train", written.train), ("test", written.test)):
        lines = [f"{name}_denoised_thumb.mp4" if form == "asva" else name for name in names]
        (root / f"{split}.txt").write_text("".join(f"{line}\n" for line in lines))
    return written


def write_times(path: Path, events: list[Event], seconds: float) -> None:
    """One row per event, hits and scratches in turn, and a last one without action."""
    rows = [
        f"{event.time_s:.6f} {('metal', 'None')[k % 2]} {('hit', 'scratch')[k % 2]} {('static', 'None')[k % 2]}"
        for k, event in enumerate(events)
    ]
    rows.append(f"{seconds - 0.1:.6f} None None None")
    path.write_text("\n".join(rows) + "\n")
