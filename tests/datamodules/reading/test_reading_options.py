"""Which tracks are read, and how much sound may be missing."""

from pathlib import Path

import pytest

from components.errors import InputError
from components.media.clock import ClipShape
from datamodules.reading.clip_dataset import ClipDataset
from datamodules.reading.records import ClipRecord
from datamodules.speech_clips import SpeechClips
from tests.components.media.made_files import RATE, noise, write_file

SHAPE = ClipShape(num_frames=45, fps=30.0, height=16, width=16, sample_rate=16000)


@pytest.fixture
def records(tmp_path: Path) -> list[ClipRecord]:
    """A recording with 155 ms of silence that nothing was stored for."""
    sound = noise(2.0)
    stamps = [k * 1024 + 7440 * (k > 40) for k in range(-(-len(sound) // 1024))]
    path = write_file(tmp_path / "a.mkv", "mpeg4", "pcm_s16le", sound, range(60), stamps=stamps)
    return [ClipRecord("a", path, "", "a")]


def test_the_largest_hole_is_a_setting(records: list[ClipRecord]) -> None:
    with pytest.raises(InputError, match=r"a\.mkv lacks 0\.15\d s of sound"):
        ClipDataset(records, SHAPE, "fixed", single_clip="start")[0]
    clip = ClipDataset(records, SHAPE, "fixed", single_clip="start", max_missing_audio_s=0.2)[0]
    silent = clip.audio[41 * 1024 * 16000 // RATE + 50 :][:2300]
    assert not silent.any()
    assert clip.audio.abs().max() > 0.1
    with pytest.raises(InputError, match=r"max_missing_audio_s is -1.*it must be 0 or more"):
        ClipDataset(records, SHAPE, "fixed", max_missing_audio_s=-1.0)


def test_tracks_are_chosen_by_number(records: list[ClipRecord]) -> None:
    settings = {"max_missing_audio_s": 0.2}
    assert ClipDataset(records, SHAPE, "fixed", video_track=0, audio_track=0, **settings)[0].audio.any()
    for name in ("video_track", "audio_track"):
        with pytest.raises(InputError, match=rf"a\.mkv has 1 \w+ tracks but {name} is 1; give a number from 0 to 0"):
            ClipDataset(records, SHAPE, "fixed", **{name: 1})[0]
    with pytest.raises(InputError, match="audio_track is -1; it must be at least 0"):
        SpeechClips("anywhere", audio_track=-1)
    with pytest.raises(InputError, match="video_track is 1 but audio_only reads no picture"):
        SpeechClips("anywhere", audio_only=True, video_track=1)
