"""Counts by headers alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.media.clock import ClipShape
from components.media.writer import write_mp4
from datamodules.reading.clip_dataset import ClipDataset
from datamodules.reading.overview import duration_in_words, overview
from datamodules.reading.records import ClipRecord

FORM = ClipShape(num_frames=24, fps=24, height=16, width=16, sample_rate=16000)


@pytest.fixture
def records(tmp_path: Path, recording: Callable[..., None]) -> list[ClipRecord]:
    for k, seconds in enumerate((2.5, 1.0, 0.7, 3.0)):
        recording(tmp_path / f"{k}.mp4", seconds, k, sound=k < 3)
    (tmp_path / "4.mp4").write_text("no video")
    return [ClipRecord(f"r{k}", tmp_path / f"{k}.mp4", "", f"r{k}") for k in range(5)]


def test_every_header_is_counted(records: list[ClipRecord]) -> None:
    found = overview(ClipDataset(records, FORM, "random"))
    assert (found.num_recordings, found.num_looked_at) == (5, 5)
    assert found.usable_s == pytest.approx(3.5, abs=0.05)
    assert found.faults == {"shorter than a clip": 1, "without sound": 1, "unreadable": 1}
    line = found.line("train")
    assert line.startswith("train: 2 recordings, 3.5 s; 3 cannot be used: ")
    assert all(words in line for words in ("1 shorter than a clip", "1 without sound", "1 unreadable"))
    mute = overview(ClipDataset(records, FORM, "random", mute="silence"))
    assert (mute.num_mute, mute.faults) == (1, {"shorter than a clip": 1, "unreadable": 1})
    assert mute.line("train").startswith("train: 3 recordings, 6.5 s, 1 of them mute; 2 cannot be used: ")


def test_headers_agree_with_what_is_read(records: list[ClipRecord]) -> None:
    """A file that promises a clip gives one, and the faults are those of reading."""
    for mute in ("error", "silence", "skip"):
        clips = ClipDataset(records, FORM, "random", mute=mute, on_corrupt="skip", max_corrupt_fraction=1)
        promised = overview(clips).faults
        for index in range(len(records)):
            clips[index]
        assert promised == clips.unusable.counts


def test_a_moment_that_the_reader_makes_up_for_is_not_called_short(tmp_path: Path) -> None:
    video = torch.zeros(24, 3, 16, 16, dtype=torch.uint8)
    write_mp4(tmp_path / "a.mkv", video, 24, torch.ones(15000) * 0.1, 16000)  # 62 ms of sound are missing
    clips = ClipDataset([ClipRecord("a", tmp_path / "a.mkv", "", "a")], FORM, "random")
    assert len(clips[0].audio) == 16000
    assert clips.reader.promise(clips.records[0]).usable_s == pytest.approx(1.0)


def test_many_files_are_looked_at_for_a_while(records: list[ClipRecord]) -> None:
    many = [records[0]] * 200
    found = overview(ClipDataset(many, FORM, "random"), patience_s=0.0)
    assert 0 < found.num_looked_at < 200
    looked = found.num_looked_at
    assert found.line("train").startswith(f"train: 200 recordings, of which {looked} were looked at: {looked} recordi")


def test_durations_are_read_at_a_glance() -> None:
    assert [duration_in_words(seconds) for seconds in (12.54, 59.96, 60, 3599.6, 8011)] == [
        "12.5 s",
        "60.0 s",
        "1 min 0 s",
        "1 h 0 min",
        "2 h 13 min",
    ]


def test_recordings_in_several_shapes_are_counted_together(records: list[ClipRecord]) -> None:
    parts = [ClipDataset(part, FORM, "random") for part in (records[:2], records[2:])]
    assert overview(*parts) == overview(ClipDataset(records, FORM, "random"))
