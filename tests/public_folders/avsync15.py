"""AVSync15 in small: the public release's file names and lists around rendered sounding events."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from components.media.writer import write_mp4
from datamodules.procedural.scenes import SCENES
from datamodules.procedural.sounds import render_sound
from datamodules.procedural_clips import draw_events

# class of the release -> the rendered scene that stands in for it
CLASSES = {
    "hammering": "striking_mallet",
    "striking_bowling": "bouncing_ball",
    "baby_babbling_crying": "speaking_face",
}


def write_avsync15(
    root: Path,
    num_train: int,
    num_test: int,
    height: int,
    width: int,
    seconds: float,
    classes: Sequence[str] = tuple(CLASSES),
    fps: float = 24.0,
    sample_rate: int = 16_000,
    seed: int = 0,
) -> dict[str, tuple[float, ...]]:
    """Writes ``videos/``, ``train.txt``, ``test.txt`` and ``class_mapping.json`` as the release has them.

    Args:
        root: folder to make.
        num_train: training clips, dealt out to the classes in turn.
        num_test: test clips, likewise.
        height: rows, even.
        width: columns, even.
        seconds: length of every clip.
        classes: keys of ``CLASSES``.
        fps: frames per second of every clip.
        sample_rate: samples per second of the sound.
        seed: decides scenes, sounds and onsets.

    Returns:
        the true onsets in seconds of each listed name (the release does not hold them).
    """
    onsets: dict[str, tuple[float, ...]] = {}
    for split, count in (("train", num_train), ("test", num_test)):
        names = []
        for index in range(count):
            label = classes[index % len(classes)]
            name = f"{label}/-{split}{index:05d}_000030_000040_Scene-001-0.0_{seconds}.mp4"
            rng = np.random.default_rng([seed, split == "train", index])
            events = draw_events(seconds, rng)
            size, times = rng.uniform(), np.arange(round(seconds * fps)) / fps
            frames = SCENES[CLASSES[label]](events, times, height, width, size, rng)
            sound = render_sound(CLASSES[label], events, round(seconds * sample_rate), sample_rate, size, rng)
            path = root / "videos" / name
            write_mp4(path, torch.from_numpy(frames), fps, torch.from_numpy(sound), sample_rate)
            onsets[name] = tuple(event.time_s for event in events)
            names.append(name)
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    prompts = {label: label.replace("__", "_").replace("_", " ") for label in classes}
    (root / "class_mapping.json").write_text(json.dumps(prompts))
    return onsets
