"""A set of speaking faces and struck things that renders itself: real mp4 files with transcripts and known voices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from components.errors import InputError
from components.media.clock import ClipShape
from components.media.writer import write_mp4
from datamodules.procedural.narrowed_random import NarrowedRandom
from datamodules.procedural.rendered_folder import folder_name, is_rendered, render_once
from datamodules.procedural.scenes import SCENES
from datamodules.procedural.sounds import render_sound
from datamodules.procedural.speech_faces import MAX_SPEAKERS, draw_face, face_of
from datamodules.procedural.speech_sounds import (
    MIN_SYLLABLES,
    draw_utterance,
    most_syllables,
    render_ambience,
    render_speech,
    transcript,
    voice_of,
)
from datamodules.procedural_clips import SMALL_CLIPS, check_even, draw_events
from datamodules.reading.clip_data_module import Split
from datamodules.reading.records import ClipRecord
from datamodules.speech_clips import SpeechClips

# Raise it whenever a picture, a sound or the encoding changes: folders of other versions are then not re-used.
SPEECH_RENDERER_VERSION = 2
_MANIFEST = "speech.jsonl"
_STRIKES = ("bouncing_ball", "striking_mallet")
_CAPTIONS = {"bouncing_ball": "a bouncing ball", "striking_mallet": "a mallet striking a bar"}
_SOUNDS = {"bouncing_ball": "thuds of a ball", "striking_mallet": "chimes of a bar"}

Mood = Literal["sounding", "silent", "still"]


@dataclass(frozen=True)
class SpeechRendering:
    """Everything the files depend on; see ``ProceduralSpeech``, ``seed`` is its ``render_seed``."""

    num_train: int
    num_test: int
    num_speakers: int
    strike_share: float
    silent_share: float
    still_share: float
    seed: int
    num_frames: int
    fps: float
    height: int
    width: int
    sample_rate: int
    crf: float
    variety: float
    version: int = SPEECH_RENDERER_VERSION


@dataclass(frozen=True)
class Plan:
    """What a recording shows.

    Attributes:
        index: its number in the split.
        mood: "sounding"; "silent" (nothing happens and nothing is heard); "still" (nothing moves, the room is heard).
        speaker: whose face it is, None where something is struck.
        scene: what is struck, None for a face.
    """

    index: int
    mood: Mood
    speaker: int | None
    scene: str | None


class ProceduralSpeech(SpeechClips):
    """Faces that speak syllables and things that are struck, rendered on first use with a manifest of speech.

    A face's mouth opens as far as its voice is loud and as wide as its vowel is. Pitch and formants belong to the
    speaker, the spectrum to the syllable, so what is said follows from the transcript and how it sounds from the
    reference: another utterance of the same speaker. Struck things have neither transcript nor reference. All
    recordings are one clip long; the speakers of both splits are the same.

    Some training recordings are silent (mouth shut, nothing struck, digital silence) and some are still (nothing moves
    at all, the room is heard), with the captions and reference voices of the others, so that a model which is driven by
    silence or by a still picture in guidance knows both.

    ``<root>/<hash of the arguments>/`` holds the files, ``speech.jsonl``, which ``SpeechClips`` reads, and
    ``manifest.json`` with the arguments. It is rendered beside its place and renamed when whole, and used again by
    every run with the same arguments.

    Args:
        root: parent of the rendered folders.
        num_train: training recordings.
        num_test: test recordings, at least two of each speaker.
        num_speakers: how many speak, at most 16.
        strike_share: share of the recordings in which something is struck.
        silent_share: share of the training recordings that are silent.
        still_share: share of the training recordings that are still.
        render_seed: decides the recordings (``seed`` decides the order in which they are trained on).
        clip: what every clip looks like, with an even height and width; None takes `SMALL_CLIPS`.
        crf: H.264 quality of the files.
        variety: how much the looks of two clips of one face or scene differ, 0 (not at all) to 1.
        reference_s: length in seconds of the slot for the reference voice, or None to deliver none.
        num_workers: loader processes per rank.
        cache: keep recordings in memory after their first use.
        **kwargs: see ``SpeechClips``.
    """

    has_known_scenes = True

    def __init__(
        self,
        root: str = "data/procedural_speech",
        num_train: int = 512,
        num_test: int = 64,
        num_speakers: int = 8,
        strike_share: float = 0.25,
        silent_share: float = 0.02,
        still_share: float = 0.02,
        render_seed: int = 0,
        clip: ClipShape | None = None,
        crf: float = 10.0,
        variety: float = 0.5,
        reference_s: float | None = 2.0,
        num_workers: int = 0,
        cache: bool = True,
        **kwargs: Any,
    ) -> None:
        clip = clip or SMALL_CLIPS
        check_even(clip)
        super().__init__(root, reference_s=reference_s, clip=clip, num_workers=num_workers, cache=cache, **kwargs)
        self.rendering = SpeechRendering(
            num_train=num_train,
            num_test=num_test,
            num_speakers=num_speakers,
            strike_share=float(strike_share),
            silent_share=float(silent_share),
            still_share=float(still_share),
            seed=render_seed,
            num_frames=clip.num_frames,
            fps=float(clip.fps),
            height=clip.height,
            width=clip.width,
            sample_rate=clip.sample_rate,
            crf=float(crf),
            variety=float(variety),
        )
        _check(self.rendering)
        self.folder = Path(root) / folder_name(asdict(self.rendering))
        self.root = self.folder / _MANIFEST

    def prepare_data(self) -> None:
        """Renders the files unless they are there."""
        render_once(self.folder, asdict(self.rendering), lambda folder: _render(self.rendering, folder))

    def records(self, split: Split) -> list[ClipRecord]:
        """The rendered recordings of a split."""
        if not is_rendered(self.folder, asdict(self.rendering)):
            raise InputError(f"{self.folder} is not rendered yet; call prepare_data() first")
        return super().records(split)


def plan_of(rendering: SpeechRendering, split: str) -> list[Plan]:
    """What the recordings of a split show: every kind evenly spread, and a longer list begins with the shorter one."""
    train = split == "train"
    moods = {"silent": rendering.silent_share if train else 0.0, "still": rendering.still_share if train else 0.0}
    # turns of its own for each mood, so that silent and still clips show every speaker and scene
    turns = {mood: _turns(rendering) for mood in ("sounding", "silent", "still")}
    plans = []
    for index in range(rendering.num_train if train else rendering.num_test):
        mood: Mood = "sounding"
        if _is_due(index, moods["silent"]):
            mood = "silent"
        elif _is_due(index, moods["still"], 0.5):
            # half a turn later than the silent ones, so that they are not due together
            mood = "still"
        plans.append(Plan(index, mood, *next(turns[mood])))
    return plans


def _turns(rendering: SpeechRendering) -> Iterator[tuple[int | None, str | None]]:
    """Speaker or scene of one recording after another."""
    spoken = struck = 0
    while True:
        if _is_due(spoken + struck, rendering.strike_share):
            yield None, _STRIKES[struck % len(_STRIKES)]
            struck += 1
        else:
            yield spoken % rendering.num_speakers, None
            spoken += 1


def _is_due(index: int, share: float, phase: float = 0.0) -> bool:
    """True for a ``share`` of the indices, evenly spread."""
    # the whole number changes ``share`` times per index
    return int((index + 1) * share + phase + 1e-9) > int(index * share + phase + 1e-9)


def _render(rendering: SpeechRendering, folder: Path) -> None:
    rows = []
    plans = {split: plan_of(rendering, split) for split in ("train", "test")}
    with tqdm(total=sum(map(len, plans.values())), desc="rendering clips", unit="clip") as bar:
        for split, recordings in plans.items():
            for plan in recordings:
                rows.append(_render_recording(rendering, folder, split, plan))
                bar.update()
    _add_references(rows)
    (folder / _MANIFEST).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _render_recording(rendering: SpeechRendering, folder: Path, split: str, plan: Plan) -> dict[str, Any]:
    """Writes one file and returns its row of the manifest."""
    rng = np.random.default_rng([rendering.seed, split == "train", plan.index])
    num_frames, fps, rate = rendering.num_frames, rendering.fps, rendering.sample_rate
    duration_s = num_frames / fps
    num_samples = round(duration_s * rate)
    # looks and sounds draw from streams of their own, so that a still face looks like a speaking one
    looks = NarrowedRandom(np.random.PCG64([rendering.seed, split == "train", plan.index, 1]), rendering.variety)
    name = f"{split}_{plan.index:05d}"
    row: dict[str, Any] = {"id": name, "video": f"videos/{name}.mp4", "split": split}
    quiet = plan.mood != "sounding"
    if plan.scene is not None:
        events = [] if quiet else draw_events(duration_s, rng)
        size = rng.uniform()
        seen_size = 0.5 + rendering.variety * (size - 0.5)
        times = np.arange(num_frames) / fps
        video = SCENES[plan.scene](events, times, rendering.height, rendering.width, seen_size, looks)
        sound = render_sound(plan.scene, events, num_samples, rate, size, rng)
        row |= {"caption": _CAPTIONS[plan.scene], "audio_caption": _SOUNDS[plan.scene]}
        row["onsets"] = [event.time_s for event in events]
    else:
        assert plan.speaker is not None
        syllables = [] if quiet else draw_utterance(duration_s, rng)
        face = face_of(plan.speaker)
        video = draw_face(
            face, syllables, num_frames, fps, rendering.height, rendering.width, looks, still=plan.mood == "still"
        )
        sound = render_speech(syllables, voice_of(plan.speaker, rendering.num_speakers), num_samples, rate, rng)
        row |= {"caption": face.caption, "audio_caption": "a voice", "speaker": f"speaker_{plan.speaker:02d}"}
        row["onsets"] = [syllable.time_s for syllable in syllables]
        if not quiet:
            row["transcript"] = transcript(syllables)
    if plan.mood == "silent":
        sound = np.zeros(num_samples, np.float32)
    elif plan.mood == "still":
        sound = render_ambience(num_samples, rate, rng)
    write_mp4(folder / row["video"], torch.from_numpy(video), fps, torch.from_numpy(sound), rate, crf=rendering.crf)
    return row


def _add_references(rows: list[dict[str, Any]]) -> None:
    """A face that says nothing gets an utterance of its speaker by name, and can then be nobody's reference."""
    spoken: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if "transcript" in row:
            spoken.setdefault((row["split"], row["speaker"]), []).append(row["video"])
    mute = 0
    for row in rows:
        if "speaker" in row and "transcript" not in row:
            # a face without words loses its speaker: its silence must be nobody's reference
            utterances = spoken.get((row["split"], row.pop("speaker")))
            if utterances:
                row["reference_audio"] = utterances[mute % len(utterances)]
            mute += 1


def _check(rendering: SpeechRendering) -> None:
    for name in ("num_train", "num_test", "num_speakers"):
        if getattr(rendering, name) < 1:
            raise InputError(f"{name} is {getattr(rendering, name)}; at least 1 is needed")
    if rendering.num_speakers > MAX_SPEAKERS:
        raise InputError(f"num_speakers is {rendering.num_speakers}; there are faces for {MAX_SPEAKERS}")
    for name in ("strike_share", "silent_share", "still_share", "variety"):
        if not 0 <= getattr(rendering, name) <= 1:
            raise InputError(f"{name} is {getattr(rendering, name):g}; it must lie between 0 and 1")
    if most_syllables(rendering.num_frames / rendering.fps) < MIN_SYLLABLES:
        raise InputError(
            f"clip: {rendering.num_frames} frames at {rendering.fps:g} fps have no room for {MIN_SYLLABLES} syllables;"
            " raise clip.num_frames"
        )
    utterances = sum(plan.speaker is not None for plan in plan_of(rendering, "test"))
    if rendering.strike_share < 1 and utterances < 2 * rendering.num_speakers:
        raise InputError(
            f"num_test is {rendering.num_test}, which gives {utterances} utterances to {rendering.num_speakers}"
            " speakers; each needs two, one to be the other's reference: raise num_test or lower num_speakers"
        )
