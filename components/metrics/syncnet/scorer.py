"""Scores clips with SyncNet: Sync-C, Sync-D and the offset between picture and sound.

Metrics specification, section 3. The lips' embeddings cost an order of magnitude more than the sound's, so the two
are separate steps: a video is embedded once and compared with as many sounds as are of interest.

Legend for shapes: B clips, T frames at 25 fps, N windows, D embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor

from components.contracts import ClipBatch, SyncScorer
from components.errors import InputError
from components.metrics.syncnet.input import at_syncnet_fps, at_syncnet_rate, network_pictures, shown_frames
from components.metrics.syncnet.mfcc import SAMPLE_RATE, mfcc, to_int16_scale
from components.metrics.syncnet.model import FPS, WINDOW_FRAMES, SyncNet, cepstrum_windows
from components.metrics.syncnet.offsets import MAX_SHIFT, sync_offset
from components.metrics.syncnet.scene_cuts import SceneCuts
from components.metrics.syncnet.tracking import FaceDetector, FaceTracker, WholeFrame
from components.weights.identity import identity_of

Problem = Literal["no_face", "too_short"]


@dataclass(frozen=True)
class LipTrack:
    """One face of a clip.

    Attributes:
        first_frame: frame (at 25 fps) it appears in.
        embeddings: ``[N, D]``, one per frame from there on.
    """

    first_frame: int
    embeddings: Tensor

    def cpu(self) -> LipTrack:
        """The same on the CPU."""
        return LipTrack(self.first_frame, self.embeddings.cpu())


@dataclass(frozen=True)
class SyncScore:
    """How well picture and sound of a clip agree, averaged over its faces.

    Attributes:
        sync_c: confidence, higher is better; NaN where there is no score.
        sync_d: distance, lower is better; NaN where there is no score.
        offset_s: how much the sound comes before the picture, in seconds; NaN where there is no score.
        problem: why there is no score, or None.
    """

    sync_c: float
    sync_d: float
    offset_s: float
    problem: Problem | None = None


class SyncNetScorer(SyncScorer):
    """Sync-C and Sync-D of clips.

    Clips of any frame and sample rate are brought to 25 fps and 16 kHz by time. SyncNet's search pads the sound with
    zeros at both ends: below about 40 windows the confidence measures that padding and below 16 it is near 0 whatever
    the lips do, so faces seen for less than ``min_duration_s`` get no score.

    The cepstra are taken over the whole clip, not anew for each face as in the public pipeline; that differs in the
    first sample of a face that appears late.

    Args:
        net: the network; its weights decide what the scores mean.
        faces: finds the faces; None takes the whole frame as a cropped face.
        tracker: links and crops what ``faces`` finds; None takes the standard one.
        max_shift: frames searched either way.
        min_duration_s: shortest stretch of a face that is scored.
        windows_at_once: windows embedded together; bounds the memory (about 10 MB each at full size).
        scenes: where shots end; a face is followed within its shot only. None takes every clip as one shot.

    Raises:
        InputError: if a number is out of range.
    """

    def __init__(
        self,
        net: SyncNet,
        faces: FaceDetector | None = None,
        tracker: FaceTracker | None = None,
        max_shift: int = MAX_SHIFT,
        min_duration_s: float = 2.0,
        windows_at_once: int = 32,
        scenes: SceneCuts | None = None,
    ) -> None:
        super().__init__()
        if max_shift < 1:
            raise InputError(f"SyncNetScorer.max_shift is {max_shift}; at least 1 frame has to be searched")
        if windows_at_once < 1:
            raise InputError(f"SyncNetScorer.windows_at_once is {windows_at_once}; it must be at least 1")
        # 1e-6 s: 2 s at 25 fps must not come out as 51 frames
        self.min_frames = math.ceil(min_duration_s * FPS - 1e-6)
        if self.min_frames <= WINDOW_FRAMES:
            raise InputError(
                f"SyncNetScorer.min_duration_s is {min_duration_s}; it must exceed {WINDOW_FRAMES / FPS} s, one window"
            )
        self.net = net
        self.faces = faces or WholeFrame()
        self.tracker = tracker or FaceTracker()
        self.max_shift = max_shift
        self.min_duration_s = min_duration_s
        self.windows_at_once = windows_at_once
        self.scenes = scenes

    def identity(self) -> dict[str, object]:
        """All that scores depend on, as plain values: network, detector, tracker and settings."""
        net, faces = identity_of(self.net), type(self.faces)
        found: dict[str, object] = {
            "syncnet": net.name,
            "syncnet_sha256": net.sha256,
            "face_detector": f"{faces.__module__}.{faces.__qualname__}",
            "max_shift_frames": self.max_shift,
            "min_duration_s": self.min_duration_s,
        }
        if not isinstance(self.faces, WholeFrame):
            found |= {"faces": self.faces.identity(), "tracker": asdict(self.tracker)}
        if self.scenes is not None:
            found["scenes"] = asdict(self.scenes)
        return found

    def forward(self, video: Tensor, fps: float, audio: Tensor, sample_rate: int) -> dict[str, Tensor]:
        """``[B, T, 3, H, W]`` in [0, 1] and ``[B, S]`` in [-1, 1] to ``sync_c``, ``sync_d`` and ``offset_s`` ``[B]``.

        NaN where a clip has no face or is too short.
        """
        pairs = zip(self.lips(video, fps), self.sounds(audio, sample_rate), strict=True)
        scores = [self.score(lips, sound) for lips, sound in pairs]
        columns = {name: [getattr(score, name) for score in scores] for name in ("sync_c", "sync_d", "offset_s")}
        return {name: torch.tensor(column, device=video.device) for name, column in columns.items()}

    @torch.no_grad()
    def lips(self, video: Tensor, fps: float, known: Sequence[Tensor | None] | None = None) -> list[list[LipTrack]]:
        """Embeds the faces of each clip of ``[B, T, 3, H, W]`` in [0, 1]; ``known`` are their `boxes`."""
        every = known or [None] * len(video)
        with torch.autocast(video.device.type, enabled=False):
            clips = zip(at_syncnet_fps(video.float(), fps), every, strict=True)
            return [self._lips_of(frames, _at_syncnet_fps(boxes, video.shape[1], fps)) for frames, boxes in clips]

    def boxes(self, batch: ClipBatch, rows: Sequence[int]) -> list[Tensor | None]:
        """What the data say of where the faces of those ``rows`` are.

        Raises:
            InputError: if they say nothing and ``faces`` needs it; names the clip.
        """
        found = [None if batch.face_boxes is None else batch.face_boxes[row] for row in rows]
        unknown = [batch.ids[row] for row, boxes in zip(rows, found, strict=True) if boxes is None]
        if self.faces.needs_known and unknown:
            raise InputError(
                f"clip {unknown[0]} has no face_boxes, by which its face is to be found; give "
                f"them in the manifest, or set {type(self.faces).__name__}.otherwise to a detector"
            )
        return found

    @torch.no_grad()
    def sounds(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Embeds the sound ``[B, S]`` in [-1, 1] of the windows from frame 0, 1, 2 ...: ``[B, N, D]``."""
        with torch.autocast(audio.device.type, enabled=False):
            cepstra, num_windows = sound_cepstra(audio, sample_rate)
            if not num_windows:
                return audio.new_zeros(len(audio), 0, self.net.embed_dim)
            windows = [cepstrum_windows(clip, num_windows) for clip in cepstra]
            chunks = torch.cat(windows).split(8 * self.windows_at_once)  # the sound's tower is the smaller one by far
            embeddings = torch.cat([self.net.embed_sound(chunk) for chunk in chunks])
        result: Tensor = embeddings.unflatten(0, (len(audio), num_windows))
        return result

    def score(self, lips: Sequence[LipTrack], sound: Tensor) -> SyncScore:
        """Compares the faces of a clip with a sound ``[N, D]``, its own or another."""
        if not lips:
            return SyncScore(math.nan, math.nan, math.nan, "no_face")
        found = []
        for track in lips:
            # the last window is left out, as the public pipeline does
            shifted = sound[track.first_frame :]
            num_windows = min(len(track.embeddings) - 1, len(shifted))
            if num_windows + WINDOW_FRAMES >= self.min_frames:
                found.append(sync_offset(track.embeddings[:num_windows], shifted[:num_windows], self.max_shift))
        if not found:
            return SyncScore(math.nan, math.nan, math.nan, "too_short")
        return SyncScore(
            sync_c=fmean(offset.confidence for offset in found),
            sync_d=fmean(offset.min_distance for offset in found),
            offset_s=fmean(offset.offset / FPS for offset in found),
        )

    def _lips_of(self, frames: Tensor, known: Tensor | None) -> list[LipTrack]:
        """The faces of one clip ``[T, 3, H, W]`` at 25 fps."""
        shots = [range(len(frames))] if self.scenes is None else self.scenes.shots(frames)
        boxes = self.faces.locate(frames, known)
        if boxes is None:
            return [LipTrack(shot.start, self._embed(frames[shot.start : shot.stop])) for shot in shots]
        self._check(boxes, len(frames))
        return [track for shot in shots for track in self._tracked(frames, boxes, shot)]

    def _tracked(self, frames: Tensor, boxes: Sequence[Tensor], shot: range) -> list[LipTrack]:
        """The faces of one shot."""
        shown, found = frames[shot.start : shot.stop], boxes[shot.start : shot.stop]
        return [
            LipTrack(shot.start + track.first_frame, self._embed(self.tracker.cut(shown, track, self.net.image_size)))
            for track in self.tracker.tracks([corners.tolist() for corners in found])
        ]

    def _check(self, boxes: Sequence[Tensor], num_frames: int) -> None:
        """Refuses what a detector of one's own may get wrong."""
        name = type(self.faces).__qualname__
        if len(boxes) != num_frames:
            raise InputError(f"{name}.detect returned boxes of {len(boxes)} frames for {num_frames}; one tensor each")
        for found in boxes:
            if found.ndim != 2 or found.shape[1] != 4 or not (found[:, 2:] > found[:, :2]).all():
                raise InputError(
                    f"{name}.detect returned the boxes {found.tolist()}; rows of left < right and top < bottom are "
                    "needed, in the order left, top, right, bottom"
                )

    def _embed(self, faces: Tensor) -> Tensor:
        """``[T, 3, H, W]`` to ``[T - 4, D]``, or to nothing where that could not be scored anyway."""
        if len(faces) < self.min_frames:
            return faces.new_zeros(0, self.net.embed_dim)
        shared = WINDOW_FRAMES - 1
        parts = []
        # pieces overlap by four frames, so that every window lies in one of them
        for first in range(0, len(faces) - shared, self.windows_at_once):
            part = network_pictures(faces[first : first + self.windows_at_once + shared], self.net.image_size)
            parts.append(self.net.embed_lips(part[None])[0])
        return torch.cat(parts)


def _at_syncnet_fps(boxes: Tensor | None, num_frames: int, fps: float) -> Tensor | None:
    """Boxes ``[T, 4]`` of a clip for the frames that `at_syncnet_fps` takes of ``num_frames``."""
    if boxes is None:
        return None
    # a generated clip may be a frame longer than the real one, whose last box holds on
    return boxes[shown_frames(num_frames, fps).clamp(max=len(boxes) - 1)]


def sound_cepstra(audio: Tensor, sample_rate: int) -> tuple[Tensor, int]:
    """Cepstra ``[B, F, 13]`` of sound ``[B, S]`` in [-1, 1], and how many windows the public pipeline takes of it."""
    samples = at_syncnet_rate(audio.float(), sample_rate)
    # the public pipeline leaves the last window out: floor(samples / 640) - 5
    num_windows = max(0, samples.shape[1] * FPS // SAMPLE_RATE - WINDOW_FRAMES)
    return mfcc(to_int16_scale(samples)).float(), num_windows
