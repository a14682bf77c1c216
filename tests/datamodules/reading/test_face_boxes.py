"""Boxes of a manifest: what is refused with file and row, and which of them a clip gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from components.errors import InputError
from components.media.clock import ClipShape
from components.media.writer import write_mp4
from datamodules.reading.clip_dataset import ClipDataset, collate_clips
from datamodules.reading.face_boxes import boxes_of_clip
from datamodules.reading.speech_manifest import read_manifest

BOX = [0.25, 0.1, 0.75, 0.6]
SHAPE = ClipShape(num_frames=12, fps=12.0, height=32, width=32, sample_rate=16000)


def manifest(folder: Path, boxes: Any, kind: str = "jsonl") -> Path:
    (folder / "a.mp4").touch()
    path = folder / f"set.{kind}"
    if kind == "jsonl":
        path.write_text('{"video": "a.mp4", "id": "good"}\n' + json.dumps({"video": "a.mp4", "face_boxes": boxes}))
    else:
        quoted = json.dumps(boxes).replace('"', '""')
        path.write_text(f'video,id,face_boxes\na.mp4,good,\na.mp4,a,"{quoted}"\n')
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize(("said", "held"), [(BOX, [BOX]), ([BOX, None, [0, 0, 1, 1]], [BOX, None, [0, 0, 1, 1]])])
def test_one_box_or_one_a_frame(tmp_path: Path, kind: str, said: Any, held: list[Any]) -> None:
    good, record = read_manifest(manifest(tmp_path, said, kind))[None]
    assert good.face_boxes is None
    assert record.face_boxes == tuple(None if box is None else tuple(map(float, box)) for box in held)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("left", "no JSON"),
        (3, "must be a box"),
        ([], "must be a box"),
        ([0.1, 0.2, 0.3], "a box is"),
        ([0.1, 0.2, 0.3, "x"], "a box is"),
        ([120, 40, 260, 180], "divide pixels"),
        ([0.5, 0.1, 0.5, 0.9], "holds nothing"),
        ([BOX, [0.1, 0.9, 0.3, 0.2]], "face_boxes of frame 1"),
        ([BOX, 0.5], "face_boxes of frame 1"),
    ],
)
def test_what_is_no_box(tmp_path: Path, said: Any, complaint: str) -> None:
    path = manifest(tmp_path, said)
    with pytest.raises(InputError, match="line 2: the row has") as refused:
        read_manifest(path)
    assert str(path) in str(refused.value) and complaint in str(refused.value)


def test_a_column_that_means_something_else_can_be_passed_over(tmp_path: Path) -> None:
    _, record = read_manifest(manifest(tmp_path, [120, 40, 260, 180]), ignore_columns=["face_boxes"])[None]
    assert record.face_boxes is None


def test_the_part_that_the_clip_shows() -> None:
    # of a picture twice as wide as high the clip shows the half in the middle
    found = boxes_of_clip(((0.25, 0.5, 0.5, 1.0),), "a", 0.0, 2, SHAPE, 25.0, (100, 200))
    assert found.tolist() == [[0.0, 0.5, 0.5, 1.0]] * 2
    # cut at the edge, and out of sight
    both = ((0.1, 0.0, 0.5, 1.0), (0.0, 0.0, 0.2, 1.0))
    cut, gone = boxes_of_clip(both, "a", 0.0, 2, SHAPE, 12.0, (100, 200))
    assert cut.tolist() == [0.0, 0.0, 0.5, 1.0] and gone.isnan().all()


def test_frames_by_their_time() -> None:
    boxes = tuple((0.0, 0.0, 1.0, (1 + frame) / 100) for frame in range(50))
    found = boxes_of_clip(boxes, "a", 1.0, 12, SHAPE, 25.0, (32, 32))
    # half way through each of the clip's frames at 12 fps, from 1 s on
    expected = [int((1 + (frame + 0.5) / 12) * 25) for frame in range(12)]
    assert [round(float(bottom) * 100) - 1 for bottom in found[:, 3]] == expected
    with pytest.raises(InputError, match=r"a has 20 face_boxes, but its clip reaches to frame 48 at 25 fps"):
        boxes_of_clip(boxes[:20], "a", 1.0, 12, SHAPE, 25.0, (32, 32))


def test_batches_carry_them(tmp_path: Path) -> None:
    """Also out of memory, where a clip is a slice of its recording."""
    draw = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (36, 3, 32, 64), dtype=torch.uint8, generator=draw)
    write_mp4(tmp_path / "a.mp4", video, 12.0, 0.1 * torch.randn(48000, generator=draw), 16000)
    write_mp4(tmp_path / "b.mp4", video, 12.0, 0.1 * torch.randn(48000, generator=draw), 16000)
    rows = [[0.25, 0.0, 0.75, (1 + frame) / 36] for frame in range(36)]
    (tmp_path / "set.jsonl").write_text(json.dumps({"video": "a.mp4", "face_boxes": rows}) + '\n{"video": "b.mp4"}')
    records = read_manifest(tmp_path / "set.jsonl")[None]
    for clipping, cache in (("fixed", False), ("fixed", True), ("random", True)):
        clips = ClipDataset(records, SHAPE, clipping, cache=cache)
        batch = collate_clips([clips[0], clips[1]], SHAPE)
        boxes, none = batch.face_boxes
        assert none is None and boxes.shape == (12, 4)
        first = round(float(batch.ids[0].partition("@")[2] or 1.0) * 12)  # a fixed clip lies in the centre
        assert torch.allclose(boxes[:, 3] * 36 - 1, torch.arange(12.0) + first, atol=1e-4)
        assert boxes[0, :3].tolist() == [0.0, 0.0, 1.0]
