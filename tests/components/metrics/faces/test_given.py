"""Boxes of the data in place of a detector."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from components.contracts import ClipBatch, Generation
from components.errors import InputError
from components.metrics.faces.given import GivenFaces
from components.metrics.syncnet.clip_scores import SyncNetScores
from components.metrics.syncnet.model import SyncNet
from components.metrics.syncnet.scorer import SyncNetScorer
from components.metrics.syncnet.tracking import FaceDetector, FaceTracker

FRAMES, FPS = 60, 24.0


class Corner(FaceDetector):
    """Says the same place in pixels."""

    def detect(self, frames):
        return [torch.tensor([[40.0, 20.0, 160.0, 140.0]]) for _ in frames]


def scorer(faces: FaceDetector) -> SyncNetScores:
    net = SyncNet.from_pretrained("configs/weights/quickstart_syncnet")
    return SyncNetScores(SyncNetScorer(net, faces, FaceTracker(min_face_size=50)))


@pytest.fixture(scope="module")
def clips() -> Generation:
    draw = torch.Generator().manual_seed(0)
    video = torch.rand(2, FRAMES, 3, 160, 200, generator=draw)
    audio = 0.1 * torch.randn(2, 40000, generator=draw)
    box = torch.tensor([40 / 200, 20 / 160, 160 / 200, 140 / 160]).repeat(FRAMES, 1)
    batch = ClipBatch(
        ids=["a", "b"],
        video=torch.zeros(2, FRAMES, 3, 160, 200, dtype=torch.uint8),
        fps=FPS,
        audio=audio,
        sample_rate=16000,
        captions=["", ""],
        video_ids=["a", "b"],
        face_boxes=[box, None],
    )
    return Generation(video, FPS, audio, 16000, batch)


def test_scores_are_those_of_a_detector_that_finds_the_same(clips: Generation) -> None:
    (given,) = scorer(GivenFaces()).score(clips, [0])
    (found,) = scorer(Corner()).score(clips, [0])
    assert given == found and given.problem is None


def test_frames_without_a_face(clips: Generation) -> None:
    boxes = clips.reference.face_boxes[0].clone()
    boxes[:] = torch.nan
    nobody = replace(clips, reference=replace(clips.reference, face_boxes=[boxes, None]))
    assert scorer(GivenFaces()).score(nobody, [0])[0].problem == "no_face"


def test_clips_without_boxes(clips: Generation) -> None:
    with pytest.raises(InputError, match="clip b has no face_boxes"):
        scorer(GivenFaces()).score(clips, [0, 1])
    (_, found), (_, other) = (scorer(faces).score(clips, [0, 1]) for faces in (GivenFaces(Corner()), Corner()))
    assert found == other
    with pytest.raises(InputError, match="finds no faces by itself"):
        GivenFaces().detect(clips.video[0])


def test_what_scores_depend_on() -> None:
    assert GivenFaces().identity() == {"otherwise": None}
    assert GivenFaces(Corner()).identity()["otherwise"].endswith("Corner")
