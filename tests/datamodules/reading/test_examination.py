"""What is said of recordings before a training, against what the training does with them."""

import io
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from components.errors import InputError
from components.media.clock import ClipShape
from components.media.writer import write_mp4
from datamodules.reading.clip_dataset import ClipDataset
from datamodules.reading.examination import ExaminedRecords, examine
from datamodules.reading.record_reader import RecordReader
from datamodules.reading.records import ClipRecord
from tests.components.media.made_files import turn

FORM = ClipShape(num_frames=24, fps=24, height=16, width=32, sample_rate=16000)
Recording = Callable[..., None]


def record(path: Path, **more: object) -> ClipRecord:
    return ClipRecord(path.stem, path, "a tone", path.stem, **more)  # type: ignore[arg-type]


def test_the_facts_of_a_recording(tmp_path: Path, recording: Recording) -> None:
    recording(tmp_path / "a.mp4", 2.5, 0)
    seen = examine(record(tmp_path / "a.mp4"), RecordReader(FORM))
    assert (seen.fps, seen.width, seen.height, seen.sample_rate, seen.trouble) == (24, 16, 16, 16000, None)
    assert seen.duration_s == pytest.approx(2.5, abs=0.01)
    assert seen.tracks == ("video h264", "audio aac 16000 Hz mono")
    assert (seen.silent_share, seen.clipped_share, seen.still_share) == (0, 0, 0)
    assert seen.loudness_lufs == pytest.approx(-9.8, abs=0.5)  # a sine of half the full scale, at 300 Hz
    strip = Image.open(io.BytesIO(seen.thumbnails))
    assert strip.size == (3 * 112, 56), "three pictures as the clips are cropped"
    first, middle, last = (strip.getpixel((56 + 112 * k, 28))[0] for k in range(3))
    assert first < middle < last, "grey levels rise"


def test_what_lies_on_its_side_has_the_size_that_is_seen(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", torch.zeros(24, 3, 16, 48, dtype=torch.uint8), 24, torch.zeros(16000), 16000)
    turn(tmp_path / "a.mp4")
    seen = examine(record(tmp_path / "a.mp4"), RecordReader(FORM))
    assert (seen.width, seen.height, seen.trouble) == (16, 48, None)


def test_long_recordings_are_looked_at_in_three_places(tmp_path: Path) -> None:
    """Still and silent but for the last two seconds."""
    video = torch.zeros(24 * 12, 3, 16, 16, dtype=torch.uint8)
    video[-48:] = (torch.arange(48) % 2 * 200).to(torch.uint8)[:, None, None, None]
    sound = torch.zeros(16000 * 12)
    sound[-32000:] = 0.5 * torch.sin(torch.arange(32000) / 5)
    write_mp4(tmp_path / "a.mp4", video, 24, sound, 16000)
    seen = examine(record(tmp_path / "a.mp4"), RecordReader(FORM))
    assert seen.silent_share == pytest.approx(7 / 9, abs=0.03)
    assert seen.still_share == pytest.approx(1 - 48 / (3 * 71), abs=0.02)
    part = examine(record(tmp_path / "a.mp4", span_s=(10.0, 12.0)), RecordReader(FORM))
    assert part.duration_s == pytest.approx(2.0, abs=0.01)
    assert part.silent_share == 0


def test_sounds_alone(tmp_path: Path, recording: Recording) -> None:
    recording(tmp_path / "a.mp4", 2.0, 0)
    seen = examine(record(tmp_path / "a.mp4"), RecordReader(FORM, audio_only=True))
    assert (seen.width, seen.fps, seen.still_share, seen.thumbnails) == (None, None, None, b"")
    assert (seen.silent_share, seen.sample_rate) == (0, 16000)


def test_trouble_is_told_and_the_rest_is_measured(tmp_path: Path, recording: Recording) -> None:
    recording(tmp_path / "a.mp4", 2.5, 0)
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 2 // 3])
    (tmp_path / "none.mp4").write_text("no video")
    assert "cut.mp4" in str(examine(record(tmp_path / "cut.mp4"), RecordReader(FORM)).trouble)
    assert "none.mp4 is corrupt" in str(examine(record(tmp_path / "none.mp4"), RecordReader(FORM)).trouble)
    assert "gone.mp4 does not exist" in str(examine(record(tmp_path / "gone.mp4"), RecordReader(FORM)).trouble)


@pytest.fixture
def mixed(tmp_path: Path, recording: Recording) -> list[ClipRecord]:
    recording(tmp_path / "good.mp4", 2.5, 0)
    recording(tmp_path / "exact.mp4", 1.0, 1)
    recording(tmp_path / "short.mp4", 0.7, 2)
    recording(tmp_path / "mute.mp4", 2.0, 3, sound=False)
    recording(tmp_path / "quiet.mp4", 2.0, 4, loudness=5e-4)
    (tmp_path / "none.mp4").write_text("no video")
    return [record(tmp_path / f"{name}.mp4") for name in ("good", "exact", "short", "mute", "quiet", "none")]


@pytest.mark.parametrize(
    ("clipping", "mute", "cache"),
    list(itertools.product(("random", "fixed"), ("error", "silence", "skip"), (False, True))),
)
def test_the_verdict_is_what_a_run_does(mixed: list[ClipRecord], clipping: str, mute: str, cache: bool) -> None:
    looked_at = ExaminedRecords(ClipDataset(mixed, FORM, clipping, mute=mute, cache=cache))  # type: ignore[arg-type]
    for index, one in enumerate(mixed):
        _, verdict = looked_at[index]
        run = ClipDataset([one], FORM, clipping, mute=mute, cache=cache)  # type: ignore[arg-type]
        try:
            clip = run[0]
        except InputError as reason:
            assert verdict.fault is not None, one.id
            if reason.fault == verdict.fault:
                assert verdict.reason == str(reason)
            else:  # passed over, so that nothing was left
                assert run.unusable.counts == {verdict.fault: 1}
        else:
            assert verdict.fault is None, one.id
            assert (verdict.is_mute, verdict.has_sound) == (clip.mute, not clip.is_silent)
            assert verdict.has_motion


def test_nothing_is_logged_or_kept_by_a_look(mixed: list[ClipRecord], caplog: pytest.LogCaptureFixture) -> None:
    clips = ClipDataset(mixed, FORM, "random", cache=True)
    looked_at = ExaminedRecords(clips)
    for index in range(len(mixed)):
        looked_at[index]
    assert (clips.unusable.count, clips.unusable.silent_count, caplog.records) == (0, 0, [])
