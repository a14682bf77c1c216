"""Recordings without sound track: refused, passed over, or read as mute clips."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.errors import InputError
from components.media.clock import ClipShape
from datamodules.folder_clips import FolderClips
from datamodules.reading.clip_dataset import ClipDataset, collate_clips
from datamodules.reading.order import SampleKey
from datamodules.reading.records import ClipRecord
from datamodules.reading.reference_voices import ReferenceVoices
from datamodules.speech_clips import SpeechDataset

FORM = ClipShape(num_frames=24, fps=24, height=16, width=16, sample_rate=16000)


@pytest.fixture
def records(tmp_path: Path, recording: Callable[..., None]) -> list[ClipRecord]:
    for k in range(4):
        recording(tmp_path / f"{k}.mp4", 2.0, k, sound=k % 2 == 0)
    return [ClipRecord(f"r{k}", tmp_path / f"{k}.mp4", "", f"r{k}", speaker="ann") for k in range(4)]


def test_mute_clips_are_told_from_silent_ones(records: list[ClipRecord]) -> None:
    data = ClipDataset(records, FORM, "random", mute="silence")
    clips = [data[SampleKey(k, k)] for k in range(4)]
    assert [clip.mute for clip in clips] == [False, True, False, True]
    assert not clips[1].audio.any()
    assert len(clips[1].audio) == 16000
    assert data.unusable.silent_count == 0, "nothing was expected to be heard"
    batch = collate_clips(clips, FORM)
    assert batch.mute is not None
    assert batch.mute.tolist() == [False, True, False, True]
    assert collate_clips([clips[0], clips[2]], FORM).mute is None
    cached = ClipDataset(records, FORM, "random", mute="silence", cache=True)
    assert [cached[SampleKey(k, k)].mute for k in range(4)] == [False, True, False, True]


def test_evaluation_passes_mute_recordings_over(records: list[ClipRecord]) -> None:
    for mute in ("silence", "skip"):
        data = ClipDataset(records, FORM, "fixed", mute=mute, max_corrupt_fraction=0.0)
        clips = [data[k] for k in range(4)]
        assert [clip.valid for clip in clips] == [True, False, True, False]
        assert data.unusable.counts == {"without sound": 2}


def test_they_may_be_passed_over_in_training_too(records: list[ClipRecord]) -> None:
    data = ClipDataset(records, FORM, "random", mute="skip", max_corrupt_fraction=0.0)
    assert {data[SampleKey(k, k)].video_id for k in range(4)} == {"r0", "r2"}
    with pytest.raises(InputError, match=r"1\.mp4 has no audio track; give a recording with sound, or set mute"):
        ClipDataset(records, FORM, "random")[SampleKey(1, 1)]
    alone = ClipDataset([records[1]], FORM, "random", mute="skip")
    with pytest.raises(InputError, match="none of the 1 clips can be used"):
        alone[SampleKey(0, 0)]


def test_references_are_taken_from_what_has_sound(records: list[ClipRecord]) -> None:
    voices = ReferenceVoices(records, 0.5, 16000, skip_mute=True)
    data = SpeechDataset(records, FORM, "random", voices=voices, mute="silence")
    for k in range(4):
        clip = data[SampleKey(k, k)]
        assert (clip.video_id, clip.reference_length) == (f"r{k}", 8000)
    assert data.unusable.count == 0
    with pytest.raises(InputError, match=r"\d\.mp4 has no audio track"):
        for index in range(4):
            ReferenceVoices(records, 0.5, 16000).draw(records[index], None)
    named = [replace(records[0], reference=records[1].path)]
    strict = SpeechDataset(named, FORM, "random", voices=voices, mute="skip")
    with pytest.raises(InputError, match=r"1\.mp4 has no audio track"):  # the reference is to blame, not the recording
        strict[SampleKey(0, 0)]
    own = SpeechDataset(records, FORM, "random", own_reference_s=(0.5, 0.5), mute="silence")
    assert [own[SampleKey(k, k)].reference_length for k in range(4)] == [8000, 0, 8000, 0]
    reference = own[SampleKey(1, 1)].reference
    assert reference is not None
    assert torch.equal(reference, torch.zeros(8000))


def test_the_setting_of_a_data_set(records: list[ClipRecord], tmp_path: Path) -> None:
    data = FolderClips(str(tmp_path), prompt="a tone", hold_out=0.25, clip=FORM, mute="silence")
    data.setup("fit")
    train = data.dataset("train")
    assert sum(train[SampleKey(k, k)].mute for k in range(len(data.records("train")))) in (1, 2)
    with pytest.raises(InputError, match="mute is 'maybe'; choose from error, silence and skip"):
        FolderClips(str(tmp_path), mute="maybe")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="mute is silence but audio_only reads nothing else"):
        FolderClips(str(tmp_path), audio_only=True, mute="silence")


def test_a_reference_drawn_of_the_recording_is_not_missed_where_it_is_mute(
    records: list[ClipRecord], caplog: pytest.LogCaptureFixture
) -> None:
    alone = [replace(record, speaker=None) for record in records]
    voices = ReferenceVoices(alone, 0.5, 16000, shortest_s=0.2, missing="error", skip_mute=True)
    data = SpeechDataset(alone, FORM, "random", voices=voices, mute="silence")
    for position in range(8):
        clip = data[SampleKey(1, position)]
        assert (clip.mute, clip.reference_length) == (True, 0)
    lengths = {data[SampleKey(0, position)].reference_length for position in range(8)}
    assert len(lengths) > 1
    assert min(lengths) >= 3200
    assert not caplog.records


def test_mute_recordings_are_grouped_by_shape_too(records: list[ClipRecord], tmp_path: Path) -> None:
    data = FolderClips(
        str(tmp_path),
        prompt="a tone",
        hold_out=0.25,
        clip=FORM,
        mute="silence",
        bucket_sizes=[(16, 16), (16, 32)],
        bucket_cache=None,
        num_workers=0,
        batch_size=1,
    )
    data.setup("fit")
    (part,) = data.dataset("train").parts
    assert isinstance(part, ClipDataset)
    assert (part.shape.height, part.shape.width, part.unusable.expected) == (16, 16, {"without sound"})
    assert len([batch for batch, _ in zip(data.train_dataloader(), range(3), strict=False)]) == 3
    assert len(list(data.val_dataloader())) == 1
