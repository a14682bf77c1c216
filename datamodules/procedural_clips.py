"""A data set that renders itself: real mp4 files of sounding events whose true onsets are known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from components.errors import InputError
from components.media.clock import ClipShape
from components.media.writer import write_mp4
from datamodules.avsync15 import AVSync15
from datamodules.procedural.narrowed_random import NarrowedRandom
from datamodules.procedural.rendered_folder import folder_name, is_rendered, render_once
from datamodules.procedural.scenes import MIN_GAP_S, SCENES, Event
from datamodules.procedural.sounds import render_sound
from datamodules.reading.clip_data_module import Split
from datamodules.reading.records import ClipRecord

# Raise it whenever a scene, a sound or the encoding changes: folders of other versions are then not re-used.
RENDERER_VERSION = 4
_PROMPTS = {
    "bouncing_ball": "a bouncing ball",
    "striking_mallet": "a mallet striking a bar",
    "speaking_face": "a speaking face",
}
_MAX_GAP_S = 0.9
# A clip ends at least this long after its last onset, so that the event is seen and heard whole.
_TAIL_S = 0.2


SMALL_CLIPS = ClipShape(num_frames=49, fps=24.0, height=32, width=32, sample_rate=16000)
"""What rendered clips look like unless an experiment says otherwise."""


@dataclass(frozen=True)
class Rendering:
    """Everything the files depend on.

    Attributes:
        num_train: training recordings.
        num_test: test recordings.
        kinds: names of scenes, dealt out in turn.
        seed: decides every scene, sound and onset.
        train_frames: frames per training recording.
        test_frames: frames per test recording.
        fps: frames per second.
        height: rows.
        width: columns.
        sample_rate: sound samples per second.
        crf: H.264 quality.
        variety: how much the looks of two clips of one scene differ, 0 to 1.
        version: of the renderer.
    """

    num_train: int
    num_test: int
    kinds: tuple[str, ...]
    seed: int
    train_frames: int
    test_frames: int
    fps: float
    height: int
    width: int
    sample_rate: int
    crf: float
    variety: float = 1.0
    version: int = RENDERER_VERSION

    @property
    def folder(self) -> str:
        """A folder name that no other rendering has."""
        return folder_name(asdict(self))


class ProceduralClips(AVSync15):
    """Bouncing balls, striking mallets and speaking faces, rendered on first use in AVSync15's layout.

    ``<root>/<hash of the arguments>/`` holds the layout ``AVSync15`` reads, ``onsets.json`` with the true onsets and
    ``manifest.json`` with the arguments. It is rendered beside its place and renamed when whole, and used again by
    every run with the same arguments. A test recording is exactly one clip long.

    Args:
        root: parent of the rendered folders.
        num_train: training recordings.
        num_test: test recordings.
        kinds: scenes to render: bouncing_ball, striking_mallet, speaking_face.
        render_seed: decides the recordings (``seed`` decides the order in which they are trained on).
        train_duration_s: length of a training recording in seconds.
        clip: what every clip looks like, with an even height and width; None takes `SMALL_CLIPS`.
        crf: H.264 quality of the files.
        variety: how much the looks of two clips of one scene differ, 0 (not at all) to 1; sounds always vary fully.
        num_workers: loader processes per rank.
        cache: keep recordings in memory after their first use.
        **kwargs: see ``ClipDataModule``.
    """

    has_known_scenes = True

    def __init__(
        self,
        root: str = "data/procedural",
        num_train: int = 384,
        num_test: int = 64,
        kinds: Sequence[str] = tuple(SCENES),
        render_seed: int = 0,
        train_duration_s: float = 4.0,
        clip: ClipShape | None = None,
        crf: float = 10.0,
        variety: float = 1.0,
        num_workers: int = 0,
        cache: bool = True,
        **kwargs: Any,
    ) -> None:
        if unknown := [kind for kind in kinds if kind not in SCENES]:
            raise InputError(f"kinds has the unknown scene {unknown[0]!r}; choose from {', '.join(SCENES)}")
        for name, value in (("num_train", num_train), ("num_test", num_test), ("kinds", len(kinds))):
            if value < 1:
                raise InputError(f"{name} is {value}; at least 1 is needed")
        if not 0 <= variety <= 1:
            raise InputError(f"variety is {variety}; it must lie between 0 and 1")
        clip = clip or SMALL_CLIPS
        check_even(clip)
        super().__init__(root, clip=clip, num_workers=num_workers, cache=cache, **kwargs)
        if clip.duration_s < MIN_GAP_S + _TAIL_S:
            raise InputError(
                f"clip: {clip.num_frames} frames at {clip.fps} fps have no room for an event; raise clip.num_frames"
            )
        if train_duration_s < clip.duration_s:
            raise InputError(
                f"train_duration_s is {train_duration_s}; it must not be below a clip's {clip.duration_s:.3f} s"
            )
        self.rendering = Rendering(
            num_train=num_train,
            num_test=num_test,
            kinds=tuple(kinds),
            seed=render_seed,
            train_frames=round(train_duration_s * clip.fps),
            test_frames=clip.num_frames,
            fps=float(clip.fps),
            height=clip.height,
            width=clip.width,
            sample_rate=clip.sample_rate,
            crf=float(crf),
            variety=float(variety),
        )
        self.root = Path(root) / self.rendering.folder

    def prepare_data(self) -> None:
        """Renders the files unless they are there."""
        render_folder(self.rendering, self.root)

    def records(self, split: Split) -> list[ClipRecord]:
        """The rendered recordings of a split."""
        if not is_complete(self.root, self.rendering):
            raise InputError(f"{self.root} is not rendered yet; call prepare_data() first")
        return super().records(split)


def check_even(clip: ClipShape) -> None:
    """Refuse sides that H.264 cannot encode.

    Raises:
        InputError: naming the odd side.
    """
    for name, value in (("height", clip.height), ("width", clip.width)):
        if value % 2:
            raise InputError(f"clip.{name} is {value}; H.264 needs even sizes")


def is_complete(folder: Path, rendering: Rendering) -> bool:
    """True if the folder holds exactly this rendering."""
    return is_rendered(folder, _manifest(rendering))


def render_folder(rendering: Rendering, folder: Path) -> None:
    """Renders a folder in AVSync15's layout, once; see ``render_once``."""
    render_once(folder, _manifest(rendering), lambda partial: _render(rendering, partial))


def _render(rendering: Rendering, folder: Path) -> None:
    (folder / "class_mapping.json").write_text(json.dumps({kind: _PROMPTS[kind] for kind in rendering.kinds}, indent=1))
    onsets: dict[str, list[float]] = {}
    plan = {"train": rendering.num_train, "test": rendering.num_test}
    with tqdm(total=sum(plan.values()), desc="rendering clips", unit="clip") as bar:
        for split, count in plan.items():
            names = []
            for index in range(count):
                name, events = _render_recording(rendering, folder / "videos", split, index)
                names.append(name)
                onsets[name] = [event.time_s for event in events]
                bar.update()
            (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    (folder / "onsets.json").write_text(json.dumps(onsets, indent=1))


def _render_recording(rendering: Rendering, videos: Path, split: str, index: int) -> tuple[str, list[Event]]:
    kind = rendering.kinds[index % len(rendering.kinds)]
    num_frames = rendering.train_frames if split == "train" else rendering.test_frames
    duration_s = num_frames / rendering.fps
    # by split and number alone: a longer set begins with the shorter one
    rng = np.random.default_rng([rendering.seed, split == "train", index])
    events = draw_events(duration_s, rng)
    size = rng.uniform()
    times = np.arange(num_frames) / rendering.fps
    # looks are narrowed, sounds are not
    looks = NarrowedRandom(rng.bit_generator, rendering.variety)
    seen_size = 0.5 + rendering.variety * (size - 0.5)
    frames = SCENES[kind](events, times, rendering.height, rendering.width, seen_size, looks)
    num_samples = round(duration_s * rendering.sample_rate)
    sound = render_sound(kind, events, num_samples, rendering.sample_rate, size, rng)
    name = f"{kind}/{kind}_{split}_{index:05d}.mp4"
    write_mp4(
        videos / name,
        torch.from_numpy(frames),
        rendering.fps,
        torch.from_numpy(sound),
        rendering.sample_rate,
        crf=rendering.crf,
    )
    return name, events


def draw_events(duration_s: float, rng: np.random.Generator) -> list[Event]:
    """Onsets with uniform random gaps, none in the first ``MIN_GAP_S`` and the last 0.2 s of the recording."""
    events = []
    last_s = duration_s - _TAIL_S
    time_s = rng.uniform(MIN_GAP_S, min(_MAX_GAP_S, last_s))
    while time_s <= last_s:
        events.append(Event(float(time_s), int(rng.integers(3))))
        time_s += rng.uniform(MIN_GAP_S, _MAX_GAP_S)
    return events


def _manifest(rendering: Rendering) -> Mapping[str, Any]:
    content = asdict(rendering)
    content["kinds"] = list(rendering.kinds)
    return content
