"""Recordings shorter than a clip: what length they give, and how batches of different lengths come about."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.errors import InputError
from components.media.clock import ClipShape
from datamodules.avsync15 import AVSync15
from datamodules.procedural_clips import ProceduralClips
from datamodules.reading.clip_dataset import ClipDataset, collate_clips
from datamodules.reading.order import SampleKey
from datamodules.reading.records import ClipRecord
from datamodules.speech_clips import SpeechClips

FPS, RATE = 24, 16000
FORM = ClipShape(41, FPS, 16, 16, RATE, min_frames=15)
ONSETS = (0.1, 0.6, 0.9, 1.35, 1.6)
# seconds of a recording: frames of its clips
LENGTHS = {0.75: 17, 1.0: 17, 1.4: 33, 41 / 24: 41, 3.0: 41}
Recording = Callable[..., None]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[ClipRecord]:
    from tests.datamodules.conftest import write_recording

    folder = tmp_path_factory.mktemp("mixed")
    found = []
    for k, seconds in enumerate(LENGTHS):
        write_recording(folder / f"{k}.mp4", seconds, k)
        found.append(ClipRecord(f"r{k}", folder / f"{k}.mp4", f"caption {k}", f"v{k}", ONSETS))
    return found


@given(
    num_frames=st.integers(1, 200), min_frames=st.integers(1, 200), step=st.integers(1, 12), held=st.integers(0, 300)
)
def test_the_longest_clip(num_frames: int, min_frames: int, step: int, held: int) -> None:
    """Against a search through all lengths."""
    min_frames = min(num_frames, min_frames)
    shape = ClipShape(num_frames, FPS, 16, 16, RATE, min_frames)
    allowed = [n for n in range(min_frames, num_frames) if (n - 1) % step == 0] + [num_frames]
    assert shape.shortest(step) == allowed[0]
    assert shape.longest(held, step) == max((n for n in allowed if n <= held), default=allowed[0])
    assert shape.frames_of(shape.samples_of(shape.longest(held, step))) == shape.longest(held, step)
    for no_less in (None, num_frames, num_frames + 9):
        assert ClipShape(num_frames, FPS, 16, 16, RATE, no_less).longest(held, step) == num_frames


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("clipping", ["random", "fixed"])
def test_a_short_recording_gives_its_longest_clip(
    records: list[ClipRecord], cache: bool, clipping: Literal["random", "fixed"]
) -> None:
    data = ClipDataset(records, FORM, clipping, cache=cache)
    for k, (seconds, frames) in enumerate(LENGTHS.items()):
        clip = data[SampleKey(k, 3)]
        assert clip.video.shape == (frames, 3, 16, 16)
        assert len(clip.audio) == round(frames / FPS * RATE)
        again = ClipDataset(records, FORM, clipping, cache=cache)[SampleKey(k, 3)]
        assert again.id == clip.id
        assert torch.equal(again.audio, clip.audio)
        assert torch.equal(again.video, clip.video)
        spare_s = seconds - frames / FPS
        about_s = spare_s / 2 if clipping == "fixed" else float(clip.id.split("@")[1])
        assert clip.onsets
        start_s = next(onset for onset in ONSETS if onset >= about_s) - clip.onsets[0]
        assert start_s == pytest.approx(about_s, abs=6e-4)
        assert 0 <= start_s <= spare_s + 1e-6
        assert round(float(clip.video[0].float().mean()) / 4) == int(start_s * FPS + 2e-2)
        tone = 0.5 * torch.sin(2 * torch.pi * (300 + 70 * k) * (start_s + torch.arange(len(clip.audio)) / RATE))
        assert (clip.audio - tone)[200:-200].square().mean().sqrt() < 0.03
        assert clip.onsets == pytest.approx([t - start_s for t in ONSETS if -1e-9 <= t - start_s < frames / FPS])


def test_random_clips_of_a_short_recording_fill_it(records: list[ClipRecord]) -> None:
    data = ClipDataset(records, FORM, "random", cache=True)
    starts = {data[SampleKey(1, position)].id for position in range(80)}
    assert starts == {f"r1@{frame / FPS:.3f}" for frame in range(24 - 17 + 1)}


def test_a_batch_is_cut_to_its_shortest_clip(records: list[ClipRecord]) -> None:
    data = ClipDataset(records, FORM, "fixed", single_clip="start")
    batch = collate_clips([data[4], data[2], data[3]], FORM)
    assert batch.video.shape == (3, 33, 3, 16, 16)
    assert batch.audio.shape == (3, round(33 / FPS * RATE))
    assert batch.onsets == [ONSETS[:4]] * 3
    whole = data[4]
    assert torch.equal(batch.video[0], whole.video[:33])
    assert torch.equal(batch.audio[0], whole.audio[: batch.audio.shape[1]])


def test_a_recording_below_the_shortest_clip_is_unusable(tmp_path: Path, recording: Recording) -> None:
    recording(tmp_path / "short.mp4", 0.5, 0)
    record = ClipRecord("s", tmp_path / "short.mp4", "", "s")
    for cache in (False, True):
        for clipping in ("random", "fixed"):
            with pytest.raises(InputError, match=r"short\.mp4 is too short: .* but 0\.000\.\.0\.708 s was asked for"):
                ClipDataset([record], FORM, clipping, cache=cache)[0]
    with pytest.raises(InputError, match=r"has 0\.400 s to offer for p between 0\.100 s .* a clip's 0\.708 s"):
        ClipDataset([ClipRecord("p", record.path, "", "p", span_s=(0.1, 0.5))], FORM, "fixed")[0]


def test_without_min_frames_short_recordings_stay_unusable(records: list[ClipRecord]) -> None:
    bare = ClipShape(41, FPS, 16, 16, RATE)
    with pytest.raises(InputError, match=r"2\.mp4 is too short"):
        ClipDataset(records, bare, "fixed")[2]
    for k in (3, 4):
        for cache in (False, True):
            one = ClipDataset(records, bare, "random", cache=cache)[SampleKey(k, 5)]
            two = ClipDataset(records, FORM, "random", cache=cache)[SampleKey(k, 5)]
            assert one.id == two.id
            assert torch.equal(one.video, two.video)
            assert torch.equal(one.audio, two.audio)


def test_a_recording_whose_sound_ends_a_moment_early_gives_a_whole_clip(tmp_path: Path) -> None:
    """As it does without min_frames; a shorter clip is never padded."""
    from components.media.writer import write_mp4

    for seconds, frames in ((1.66, 41), (1.5, 33)):
        tone = 0.5 * torch.sin(2000 * torch.arange(round(seconds * RATE)) / RATE)
        video = torch.zeros(41, 3, 16, 16, dtype=torch.uint8)
        write_mp4(tmp_path / "early.mp4", video, FPS, tone, RATE)
        clip = ClipDataset([ClipRecord("e", tmp_path / "early.mp4", "", "e")], FORM, "fixed")[0]
        assert len(clip.video) == frames


def avsync(records: list[ClipRecord], folder: Path) -> Path:
    """The recordings in AVSync15's layout, all of them in both splits."""
    (folder / "videos").mkdir()
    (folder / "videos" / "tone").symlink_to(records[0].path.parent)
    names = "".join(f"tone/{k}.mp4\n" for k in range(len(records)))
    for split in ("train", "test"):
        (folder / f"{split}.txt").write_text(names)
    (folder / "class_mapping.json").write_text(json.dumps({"tone": "a tone"}))
    return folder


def test_loaders_deliver_batches_of_different_lengths(records: list[ClipRecord], tmp_path: Path) -> None:
    def module(**more: int) -> AVSync15:
        made = AVSync15(
            str(avsync(records, tmp_path)) if not (tmp_path / "videos").exists() else str(tmp_path),
            clip=ClipShape(41, FPS, 16, 16, RATE, min_frames=15),
            num_workers=0,
            **more,
        )
        made.setup("fit")
        return made

    one_by_one = [batch.video.shape[1] for batch in module(val_batch_size=1).val_dataloader()]
    assert one_by_one == sorted(LENGTHS.values(), reverse=True)
    in_twos = [batch.video.shape[1] for batch in module(val_batch_size=2).val_dataloader()]
    assert in_twos == [41, 33, 17]

    def trained(start: int, count: int) -> list[tuple[list[str], torch.Size, torch.Size]]:
        data = module(batch_size=2)
        data.load_state_dict({"consumed_samples": start})
        batches = iter(data.train_dataloader())
        return [(b.ids, b.video.shape, b.audio.shape) for b in (next(batches) for _ in range(count))]

    whole = trained(0, 8)
    assert len({video[1] for _, video, _ in whole}) > 1
    assert all(audio[1] == round(video[1] / FPS * RATE) for _, video, audio in whole)
    assert trained(6, 5) == whole[3:]


def test_transcripts_of_clips_that_a_batch_cuts_short(records: list[ClipRecord], tmp_path: Path) -> None:
    rows = [
        {"id": f"{split}{k}", "video": str(records[k].path), "transcript": f"words {k}", "split": split}
        for split in ("train", "test")
        for k in (0, 2)
    ]
    manifest = tmp_path / "set.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def module(partial: str, batch_size: int = 2) -> SpeechClips:
        made = SpeechClips(
            str(manifest),
            partial_transcripts=partial,  # type: ignore[arg-type]
            clip=ClipShape(41, FPS, 16, 16, RATE, min_frames=17),
            num_workers=0,
            batch_size=batch_size,
            val_batch_size=2,
        )
        made.setup("fit")
        return made

    def said(partial: str) -> list[str]:
        return sorted(next(iter(module(partial).train_dataloader())).transcripts or ["none"])

    assert said("keep") == ["words 0", "words 2"]
    assert said("drop") == ["", "words 0"]  # 1.4 s of words in 0.7 s of sound
    # in evaluation none is cut
    for made in (module("keep"), module("drop"), module("error", batch_size=1)):
        assert [batch.transcripts for batch in made.val_dataloader()] == [["words 2"], ["words 0"]]
    with pytest.raises(
        InputError, match=r"clip.min_frames is set and partial_transcripts is error, but a batch is cut"
    ):
        module("error")
    with pytest.raises(InputError, match=r"pad_audio is true and clip.min_frames is set"):
        SpeechClips(str(manifest), audio_only=True, pad_audio=True, clip=ClipShape(41, min_frames=17))


def test_sound_alone(records: list[ClipRecord]) -> None:
    data = ClipDataset(records, FORM, "fixed", audio_only=True)
    batch = collate_clips([data[4], data[1]], FORM)
    assert batch.video.shape == (2, 0, 3, 16, 16)
    assert batch.audio.shape == (2, round(17 / FPS * RATE))


def test_sets_of_long_recordings_take_it_without_effect(tmp_path: Path) -> None:
    data = ProceduralClips(
        str(tmp_path), 1, 1, train_duration_s=1.5, clip=ClipShape(25, FPS, 16, 16, RATE, min_frames=9)
    )
    data.prepare_data()
    data.setup("fit")
    assert next(iter(data.val_dataloader())).video.shape[1] == 25
    assert data.dataset("train").parts[0][SampleKey(0, 0)].video.shape[0] == 25


def test_wrong_numbers() -> None:
    with pytest.raises(InputError, match="min_frames is 0; it must be positive"):
        ClipShape(41, FPS, 16, 16, RATE, min_frames=0)


def test_clips_differ_by_the_temporal_factor_of_the_model_that_encodes_them(
    records: list[ClipRecord], tmp_path: Path
) -> None:
    """A data module asks the model it feeds; alone it takes Pyramid Flow's."""
    from types import SimpleNamespace

    def lengths(model: object) -> set[int]:
        made = AVSync15(
            str(avsync(records, tmp_path)) if not (tmp_path / "videos").exists() else str(tmp_path),
            clip=ClipShape(41, FPS, 16, 16, RATE, min_frames=15),
            num_workers=0,
            val_batch_size=1,
        )
        made.trainer = None if model is None else SimpleNamespace(lightning_module=model, world_size=1, global_rank=0)
        made.setup("fit")
        return {batch.video.shape[1] for batch in made.val_dataloader()}

    assert lengths(None) == {17, 33, 41}
    assert lengths(SimpleNamespace(frame_step=None)) == {17, 33, 41}
    assert lengths(SimpleNamespace(frame_step=5)) == {16, 21, 31, 41}
