"""Where clips are cut, what they hold, and what becomes of recordings that cannot be used."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from components.errors import InputError
from components.media.clock import ClipShape
from datamodules.reading.clip_dataset import ClipDataset, collate_clips
from datamodules.reading.order import EvaluationSampler, SampleKey
from datamodules.reading.record_reader import Cut
from datamodules.reading.records import ClipRecord

ONSETS = (0.2, 1.1, 1.7, 2.3)
FORM = ClipShape(num_frames=24, fps=24, height=16, width=16, sample_rate=16000)
Recording = Callable[..., None]


@pytest.fixture
def records(tmp_path: Path, recording: Recording) -> list[ClipRecord]:
    found = []
    for k in range(3):
        recording(tmp_path / f"{k}.mp4", 2.5, k)
        found.append(ClipRecord(f"r{k}", tmp_path / f"{k}.mp4", f"caption {k}", f"v{k}", ONSETS))
    return found


def first_grey(video: torch.Tensor) -> int:
    return round(float(video[0].float().mean()) / 4)


def test_a_random_clip_depends_on_seed_and_position_alone(records: list[ClipRecord]) -> None:
    one, two = ClipDataset(records, FORM, "random", seed=3), ClipDataset(records, FORM, "random", seed=3)
    keys = [SampleKey(0, 5), SampleKey(1, 6), SampleKey(0, 7)]
    forward = [one[key] for key in keys]
    backward = [two[key] for key in reversed(keys)][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert a.id == b.id
        assert torch.equal(a.video, b.video)
        assert torch.equal(a.audio, b.audio)
    assert forward[0].id != forward[2].id
    assert ClipDataset(records, FORM, "random", seed=4)[keys[0]].id != forward[0].id


@pytest.mark.parametrize("cache", [False, True])
def test_random_starts_fill_the_recording_and_keep_picture_sound_and_onsets_together(
    records: list[ClipRecord], cache: bool
) -> None:
    data = ClipDataset(records, FORM, "random", cache=cache)
    starts = []
    for position in range(60):
        clip = data[SampleKey(1, position)]
        start = next(t for t in ONSETS if t >= float(clip.id.split("@")[1])) - clip.onsets[0]
        assert clip.id == f"r1@{start:.3f}"
        starts.append(start)
        assert first_grey(clip.video) == int(start * 24 + 1e-3)  # the frame on screen at the start
        tone = 0.5 * torch.sin(2 * torch.pi * 370 * (start + torch.arange(16000) / 16000))
        assert (clip.audio - tone).abs().max() < 0.07  # one sample late would be 0.073
        expected = [onset - start for onset in ONSETS if start <= onset < start + 1]
        assert clip.onsets == pytest.approx(tuple(expected))
    assert min(starts) < 0.1
    assert max(starts) > 1.4
    assert max(starts) <= 1.5


def test_cached_clips_begin_on_frames_and_equal_what_the_file_gives(records: list[ClipRecord]) -> None:
    cached, bare = ClipDataset(records, FORM, "random", cache=True), ClipDataset(records, FORM, "fixed")
    clip = cached[SampleKey(2, 11)]
    start = round(float(clip.id.split("@")[1]) * 24) / 24
    assert float(clip.id.split("@")[1]) == pytest.approx(start, abs=5e-4)
    place = start / 1.5
    bare._place = lambda index, part, key: place  # type: ignore[method-assign]
    same = bare[2]
    assert torch.equal(same.video, clip.video)
    assert (same.audio - clip.audio).abs().max() < 1e-6
    before = cached[SampleKey(2, 11)]
    assert before.video.data_ptr() == clip.video.data_ptr()  # a slice of what is in memory


@pytest.mark.parametrize("cache", [False, True])
def test_fixed_clips_are_evenly_spaced(records: list[ClipRecord], cache: bool) -> None:
    data = ClipDataset(records, FORM, "fixed", clips_per_video=4, cache=cache)
    assert len(data) == 12
    clips = [data[4 + part] for part in range(4)]
    assert [clip.id for clip in clips] == [f"r1_clip-0{part}" for part in range(4)]
    assert {clip.video_id for clip in clips} == {"v1"}
    assert [first_grey(clip.video) for clip in clips] == [0, 12, 24, 36]
    assert clips[3].onsets == pytest.approx((0.2, 0.8))


def test_a_single_fixed_clip_lies_in_the_centre_or_at_the_start(records: list[ClipRecord]) -> None:
    assert first_grey(ClipDataset(records, FORM, "fixed")[0].video) == 18
    assert first_grey(ClipDataset(records, FORM, "fixed", single_clip="start")[0].video) == 0
    assert ClipDataset(records, FORM, "fixed")[0].id == "r0"


def test_batches(records: list[ClipRecord]) -> None:
    data = ClipDataset(records, FORM, "random")
    batch = collate_clips([data[SampleKey(0, 8)], data[SampleKey(1, 9)]], FORM)
    assert batch.video.shape == (2, 24, 3, 16, 16)
    assert batch.video.dtype == torch.uint8
    assert batch.audio.shape == (2, 16000)
    assert batch.audio.dtype == torch.float32
    assert (batch.fps, batch.sample_rate, batch.position) == (24, 16000, 8)
    assert list(batch.captions) == ["caption 0", "caption 1"]
    assert list(batch.video_ids) == ["v0", "v1"]
    assert batch.onsets is not None
    assert batch.transcripts is None
    assert batch.valid is not None
    assert batch.valid.tolist() == [True, True]
    fixed = ClipDataset(records[:1], FORM, "fixed")
    assert collate_clips([fixed[SampleKey(0, valid=False)]], FORM).valid.tolist() == [False]
    unknown = [ClipRecord("x", records[0].path, "", "x")]
    assert collate_clips([data[0], ClipDataset(unknown, FORM, "fixed")[0]], FORM).onsets is None


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:400])


def test_a_corrupt_clip_ends_the_run_by_default(records: list[ClipRecord]) -> None:
    damage(records[1].path)
    with pytest.raises(InputError, match=r"1\.mp4 is corrupt, truncated or no media file"):
        ClipDataset(records, FORM, "random")[SampleKey(1, 0)]


def test_skipping_reports_each_file_once_and_replaces_it_by_the_position(
    records: list[ClipRecord], caplog: pytest.LogCaptureFixture
) -> None:
    damage(records[1].path)
    data = ClipDataset(records, FORM, "random", on_corrupt="skip", max_corrupt_fraction=0.4)
    with caplog.at_level(logging.WARNING, "avsync.data"):
        chosen = [data[SampleKey(1, position)].id for position in range(12)]
    assert {name.split("@")[0] for name in chosen} == {"r0", "r2"}
    assert len(caplog.records) == 1
    assert "unusable clip 1 of 3: " in caplog.text
    assert "1.mp4 is corrupt" in caplog.text
    again = ClipDataset(records, FORM, "random", on_corrupt="skip", max_corrupt_fraction=0.4)
    assert [again[SampleKey(1, position)].id for position in reversed(range(12))][::-1] == chosen


def test_too_many_corrupt_clips_end_the_run_with_all_their_names(records: list[ClipRecord]) -> None:
    damage(records[0].path)
    damage(records[2].path)
    data = ClipDataset(records, FORM, "random", on_corrupt="skip", max_corrupt_fraction=0.4)
    with pytest.raises(
        InputError, match=r"2 of 3 clips cannot be used, more than max_corrupt_fraction = 0\.4 .*0\.mp4, .*2\.mp4"
    ):
        for position in range(3):
            data[SampleKey(position, position)]


def test_loader_workers_count_together(records: list[ClipRecord]) -> None:
    damage(records[0].path)
    damage(records[1].path)
    data = ClipDataset(records, FORM, "fixed", on_corrupt="skip", max_corrupt_fraction=0.7)
    loader = DataLoader(
        data,
        batch_size=1,
        sampler=EvaluationSampler(3),
        num_workers=2,
        collate_fn=lambda clips: (clips[0].id, clips[0].valid),
    )
    found = list(loader)
    assert data.unusable.count == 2
    assert found == [("r2", False), ("r2", False), ("r2", True)]  # stand-ins are not counted in evaluation


def test_a_bad_clip_takes_no_other_clips_of_its_recording_along(
    tmp_path: Path, recording: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    """Else the clips of a validation would depend on those before it, and those of a training on its workers."""
    records = []
    for k, loudness in enumerate((0.5, 0.5)):
        recording(tmp_path / f"{k}.mp4", 3.0, k, loudness=loudness)
        records.append(ClipRecord(f"r{k}", tmp_path / f"{k}.mp4", "", f"v{k}"))
    data = ClipDataset(records, FORM, "fixed", 3, on_corrupt="skip", max_corrupt_fraction=0.5)
    whole = data.reader.read

    def silent_middle(record: ClipRecord, place: float, whole_: bool = False) -> Cut:
        cut = whole(record, place, whole_)
        return cut._replace(audio=torch.zeros_like(cut.audio)) if record.id == "r0" and place == 0.5 else cut

    data.reader = SimpleNamespace(read=silent_middle)  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING, "avsync.data"):
        first, second = ([(data[item].id, data[item].valid) for item in range(6)] for _ in range(2))
    assert first == second
    assert [valid for _, valid in first] == [True, False, True, True, True, True]
    assert data.unusable.count == 1 and len(caplog.records) == 1


def test_captions_of_clips_that_are_encoded_once_differ(records: list[ClipRecord]) -> None:
    """Which one a clip has depends on its name and offset alone: prepared as in a run."""
    many = [replace(records[0], id=f"r{k}", caption="0", other_captions=("1", "2", "3")) for k in range(12)]
    data = ClipDataset(many, FORM, "random", offsets=2)
    keys = [SampleKey(item=item, position=0, offset=offset) for item in range(12) for offset in range(2)]
    prepared = [data.exactly(key).caption for key in keys]
    assert set(prepared) == {"0", "1", "2", "3"}
    assert [data.exactly(key._replace(position=7)).caption for key in keys] == prepared


def test_silence_is_an_error_in_evaluation_and_reported_in_training(
    tmp_path: Path, recording: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    recording(tmp_path / "quiet.mp4", 2.0, 0, loudness=5e-4)
    records = [ClipRecord("q", tmp_path / "quiet.mp4", "", "q")]
    with pytest.raises(InputError, match=r"quiet\.mp4 is silent in 0\.500\.\.1\.500 s \(peak below -60 dBFS\)"):
        ClipDataset(records, FORM, "fixed")[0]
    train = ClipDataset(records, FORM, "random")
    with caplog.at_level(logging.WARNING, "avsync.data"):
        assert train[SampleKey(0, 0)].audio.abs().max() < 1e-3
        train[SampleKey(0, 1)]
    assert train.unusable.silent_count == 1
    assert caplog.text.count("silent sound in") == 1
    assert "quiet.mp4" in caplog.text


def test_recordings_without_sound_or_too_short_are_named(tmp_path: Path, recording: Recording) -> None:
    recording(tmp_path / "mute.mp4", 2.0, 0, sound=False)
    recording(tmp_path / "short.mp4", 0.7, 0)
    for cache in (False, True):
        for clipping in ("random", "fixed"):
            with pytest.raises(InputError, match=r"mute\.mp4 has no audio track"):
                ClipDataset([ClipRecord("m", tmp_path / "mute.mp4", "", "m")], FORM, clipping, cache=cache)[0]
            with pytest.raises(InputError, match=r"short\.mp4 is too short: its picture ends at 0\.708 s"):
                ClipDataset([ClipRecord("s", tmp_path / "short.mp4", "", "s")], FORM, clipping, cache=cache)[0]


def test_wrong_numbers() -> None:
    for name in ("num_frames", "fps", "height", "width", "sample_rate"):
        with pytest.raises(InputError, match=rf"{name} is 0; it must be positive"):
            ClipShape(**{**vars(FORM), name: 0})
    with pytest.raises(InputError, match="clips_per_video is 0"):
        ClipDataset([], FORM, "fixed", clips_per_video=0)
    with pytest.raises(InputError, match="max_corrupt_fraction is 2"):
        ClipDataset([], FORM, "fixed", max_corrupt_fraction=2)
