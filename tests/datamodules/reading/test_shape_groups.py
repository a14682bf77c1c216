"""Batches of one shape: clips of one length that are not cut, pictures scaled to the size nearest to their form."""

import json
import logging
import os
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.contracts import ClipBatch
from components.errors import InputError
from components.media.clock import ClipShape
from components.media.writer import write_mp4
from datamodules.mixture import Mixture
from datamodules.reading.shape_groups import ShapeGroups
from datamodules.speech_clips import SpeechClips
from tests.datamodules.reading.test_clip_data_module import Recorder, trainer
from tests.datamodules.test_mixture import on_rank

FPS, RATE = 24, 16000
CLIP = ClipShape(33, FPS, 16, 16, RATE, min_frames=9)
# frames of a clip: the recordings' seconds
LENGTHS = {33: (1.5, 1.4, 2.0), 17: (0.75, 0.9), 9: (0.4, 0.5)}
SIZES = [[16, 32], [32, 16], [16, 16]]


def write_picture(path: Path, seconds: float, height: int, width: int) -> None:
    count = round(seconds * FPS)
    tone = 0.5 * torch.sin(0.3 * torch.arange(round(seconds * RATE)))
    write_mp4(path, torch.zeros(count, 3, height, width, dtype=torch.uint8), FPS, tone, RATE)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each length in a wide and a tall form (and one nearly square), all to train on and all to evaluate."""
    folder = tmp_path_factory.mktemp("shapes")
    rows = []
    for frames, durations in LENGTHS.items():
        for index, seconds in enumerate(durations):
            height, width = ((18, 32), (40, 20), (30, 32))[index]
            name = f"{frames}_{height}x{width}"
            write_picture(folder / f"{name}.mp4", seconds, height, width)
            for split in ("train", "test"):
                row = {"id": f"{split}_{name}", "video": f"{name}.mp4", "split": split, "transcript": "words"}
                rows.append(row)
    (folder / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def data(root: Path, **more: Any) -> SpeechClips:
    settings = {"clip": CLIP, "batch_size": 2, "val_batch_size": 2, "num_workers": 0, "seed": 4, "bucket_cache": None}
    return SpeechClips(str(root / "set.jsonl"), **{"partial_transcripts": "keep", **settings, **more})


def trained(root: Path, count: int, **more: Any) -> list[ClipBatch]:
    module = data(root, **more)
    module.setup("fit")
    return list(islice(module.train_dataloader(), count))


def named(batch: ClipBatch) -> list[str]:
    return [name.split("@")[0].removeprefix("train_").removeprefix("test_") for name in batch.ids]


def test_a_batch_has_clips_of_one_length_and_none_is_cut(root: Path) -> None:
    batches = trained(root, 40, bucket_lengths=True)
    seen = []
    for batch in batches:
        (frames,) = {int(name.split("_")[0]) for name in named(batch)}
        assert batch.video.shape == (2, frames, 3, 16, 16)
        assert batch.audio.shape == (2, round(frames / FPS * RATE))
        seen.append(frames)
    # by their number: three, two and two of seven
    assert [seen.count(frames) / 40 for frames in LENGTHS] == pytest.approx([3 / 7, 2 / 7, 2 / 7], abs=0.05)
    assert {name for batch in batches for name in named(batch)} == {
        f"{frames}_{size}" for frames in LENGTHS for size in ("18x32", "40x20")
    } | {"33_30x32"}
    mixed = {batch.video.shape[1] for batch in trained(root, 20)}
    assert mixed == set(LENGTHS) and any(
        len({name.split("_")[0] for name in named(batch)}) > 1 for batch in trained(root, 20)
    )


def test_a_picture_is_scaled_to_the_size_nearest_to_its_form(root: Path) -> None:
    expected = {"18x32": (16, 32), "40x20": (32, 16), "30x32": (16, 16)}
    for batch in trained(root, 30, bucket_sizes=SIZES, bucket_lengths=True):
        for name in named(batch):
            frames, form = name.split("_")
            assert batch.video.shape == (2, int(frames), 3, *expected[form])
    sizes = {tuple(batch.video.shape[3:]) for batch in trained(root, 30, bucket_sizes=SIZES)}
    assert sizes == {(16, 32), (32, 16), (16, 16)}


def test_evaluation_shows_each_clip_once_at_its_own_length(root: Path, tmp_path: Path) -> None:
    module = data(root, bucket_lengths=True, bucket_sizes=SIZES, val_batch_size=4)
    module.setup("validate")
    batches = list(module.val_dataloader())
    shapes = {tuple(batch.video.shape[1:]) for batch in batches}
    assert len(batches) == len(shapes) == 7
    assert sorted(name for batch in batches for name in batch.ids) == sorted(r.id for r in module.records("val"))
    few = data(root, bucket_lengths=True, max_val_clips=3, clips_per_video=2)
    trainer(tmp_path, 1).validate(model := Recorder(), datamodule=few)
    assert len(model.val_ids) == 3


def test_ranks_evaluate_clips_of_one_length_at_a_time(root: Path) -> None:
    """Sharded models need it: an autoregressive sampling makes more forward passes for longer clips."""

    def evaluated(rank: int, world_size: int, val_batch_size: int) -> list[ClipBatch]:
        module = on_rank(data(root, val_batch_size=val_batch_size), rank, world_size)
        module.setup("validate")
        return list(module.val_dataloader())

    sounds: dict[str, torch.Tensor] = {}
    for world_size, val_batch_size in product((1, 2, 3), (1, 2, 4)):
        ranks = [evaluated(rank, world_size, val_batch_size) for rank in range(world_size)]
        for at_a_time in zip(*ranks, strict=True):
            assert len({batch.audio.shape for batch in at_a_time}) == 1
        shown = [
            (name, sound)
            for batches in ranks
            for batch in batches
            for name, sound, keep in zip(batch.ids, batch.audio, batch.valid, strict=True)
            if keep
        ]
        assert sorted(name for name, _ in shown) == sorted(record.id for record in data(root).records("val"))
        for name, sound in shown:  # the same clip, however they are dealt
            assert torch.equal(sound, sounds.setdefault(name, sound))


@pytest.mark.parametrize("mute", ["error", "skip"])
def test_a_length_of_which_nothing_can_be_used_is_shown_as_nothing(root: Path, tmp_path: Path, mute: str) -> None:
    for file in root.glob("*"):
        if not file.name.startswith("9_"):
            (tmp_path / file.name).symlink_to(file)
        elif file.suffix == ".mp4":
            sound = None if mute == "skip" else torch.zeros(RATE // 2)
            write_mp4(tmp_path / file.name, torch.zeros(12, 3, 16, 16, dtype=torch.uint8), FPS, sound, RATE)
    settings: dict[str, Any] = {"mute": mute, "on_corrupt": "skip", "max_corrupt_fraction": 0.5, "reference_s": 0.2}
    for reference in ("own", "voice"):
        module = data(tmp_path, **settings, reference=reference)
        module.setup("validate")
        *_, last = module.val_dataloader()
        assert last.video.shape[1] == 9 and last.audio.shape == (2, 6000) and not last.audio.any()
        assert last.valid is not None and not last.valid.any() and last.mute is None
    alone = data(tmp_path, **{**settings, "max_corrupt_fraction": 0.1}, clip=replace(CLIP, min_frames=None))
    alone.setup("validate")
    with pytest.raises(InputError, match=r"more than max_corrupt_fraction|none of the 7 clips can be used"):
        list(alone.val_dataloader())


def test_a_run_goes_on_with_another_number_of_ranks(root: Path) -> None:
    single = [name for batch in trained(root, 24, bucket_lengths=True, samples_in_a_row=4) for name in batch.ids]
    ranks = [on_rank(data(root, bucket_lengths=True), rank, 2) for rank in range(2)]
    steps = list(zip(*(list(islice(module.train_dataloader(), 6)) for module in ranks), strict=True))
    assert all(one.video.shape == two.video.shape for one, two in steps)
    seen = [name for step in steps for batch in step for name in batch.ids]
    alone = on_rank(data(root, bucket_lengths=True), 0, 1)
    alone.load_state_dict({**ranks[0].state_dict(), "consumed_samples": 24})
    seen += [name for batch in islice(alone.train_dataloader(), 12) for name in batch.ids]
    assert seen == single


def test_sound_alone_has_lengths_too(root: Path) -> None:
    lengths = {batch.audio.shape[1] for batch in trained(root, 20, bucket_lengths=True, audio_only=True)}
    assert lengths == {round(frames / FPS * RATE) for frames in LENGTHS}
    with pytest.raises(InputError, match="bucket_sizes is given but audio_only reads no picture"):
        data(root, audio_only=True, bucket_sizes=SIZES)


def test_lengths_follow_the_model_that_encodes_them(root: Path) -> None:
    module = data(root, bucket_lengths=True)
    module.trainer = SimpleNamespace(lightning_module=SimpleNamespace(frame_step=4))  # type: ignore[assignment]
    groups = module.groups("train")
    assert sorted(part[0].video.shape[0] for part in groups.parts) == [9, 17, 21, 33]


def test_groups_of_several_sets_share_a_mixture(root: Path) -> None:
    def wide(**settings: Any) -> SpeechClips:
        return SpeechClips(
            str(root / "set.jsonl"),
            bucket_lengths=True,
            bucket_sizes=SIZES,
            bucket_cache=None,
            partial_transcripts="keep",
            **settings,
        )

    def sound(**settings: Any) -> SpeechClips:
        return SpeechClips(str(root / "set.jsonl"), audio_only=True, partial_transcripts="keep", **settings)

    module = Mixture({"wide": wide, "sound": sound}, clip=CLIP, batch_size=2, num_workers=0)
    module.setup("fit")
    batches = list(islice(module.train_dataloader(), 64))
    kinds = [{name.split("/")[0] for name in batch.ids} for batch in batches]
    assert all(len(kind) == 1 for kind in kinds)
    assert [kind == {"sound"} for kind in kinds].count(True) == pytest.approx(32, abs=2)
    assert (
        len({tuple(batch.video.shape[1:]) for batch, kind in zip(batches, kinds, strict=True) if "wide" in kind}) == 7
    )


def test_unusable_recordings_of_all_groups_are_counted_together(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for file in root.glob("*.mp4"):
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "9_18x32.mp4").unlink()
    (tmp_path / "9_18x32.mp4").write_bytes(b"broken")
    rows = (root / "set.jsonl").read_text()
    (tmp_path / "set.jsonl").write_text(rows)
    module = data(tmp_path, bucket_lengths=True, on_corrupt="skip", max_corrupt_fraction=0.2)
    module.setup("fit")
    with caplog.at_level(logging.WARNING, "avsync.data"):
        batches = list(islice(module.train_dataloader(), 30))
    assert all(len({name.split("_")[0] for name in named(batch)}) == 1 for batch in batches)
    assert caplog.text.count("skipped unusable clip 1 of 7") == 1
    strict = data(tmp_path, bucket_lengths=True)
    strict.setup("fit")
    with pytest.raises(InputError, match=r"9_18x32\.mp4 is corrupt, truncated or no media file"):
        list(islice(strict.train_dataloader(), 30))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bucket_lengths": True, "clip": ClipShape(33)}, "bucket_lengths is true but all clips have 33 frames; set"),
        ({"samples_in_a_row": 4}, "samples_in_a_row is given, but all clips are of one group"),
        ({"bucket_sizes": [[16, 0]]}, r"bucket_sizes has \[16, 0\]; sizes are positive"),
        ({"bucket_sizes": [[16, 8], [16, 8]]}, r"bucket_sizes has \[16, 8\]; .* each once"),
    ],
)
def test_wrong_settings_are_named(root: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        data(root, **wrong)


def test_words_may_be_held_against_clips_that_are_not_cut(root: Path) -> None:
    assert data(root, bucket_lengths=True, partial_transcripts="error").partial_transcripts == "error"
    with pytest.raises(InputError, match="set partial_transcripts to drop or keep, bucket_lengths to true, or batch"):
        data(root, partial_transcripts="error")


def test_forms_are_looked_up_until_a_file_changes(root: Path, tmp_path: Path) -> None:
    """Files that are garbage meanwhile, with the size and the time of before, show that they are not opened again."""
    for file in root.glob("*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings: dict[str, Any] = {"bucket_lengths": True, "bucket_sizes": SIZES, "bucket_cache": str(tmp_path / "cache")}

    def groups(**more: Any) -> list[list[str]]:
        found = data(tmp_path, **settings, **more).groups("train")
        return [[record.id for record in part.records] for part in found.parts]

    first = groups()
    assert len(first) == 7 and len(list((tmp_path / "cache").iterdir())) == 1
    for file in tmp_path.glob("*.mp4"):
        before = file.stat()
        file.write_bytes(b"0" * before.st_size)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert groups() == first
    assert len(groups(clip=ClipShape(33, FPS, 16, 16, RATE, min_frames=17))) == 1  # other clips: looked at, in vain
    assert len(list((tmp_path / "cache").iterdir())) == 1
    (held,) = (tmp_path / "cache").iterdir()
    held.write_text("[[33")
    assert len(groups()) == 1
    for file in root.glob("*.mp4"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert groups() == first
    (tmp_path / "33_18x32.mp4").write_bytes((root / "9_18x32.mp4").read_bytes())
    assert sorted(map(len, groups())) == [1, 1, 1, 1, 1, 2]  # now of 9 frames


def test_the_nearest_size() -> None:
    groups = ShapeGroups(sizes=((480, 832), (832, 480), (640, 640)))
    assert groups.nearest((1080, 1920)) == groups.nearest((2.0, 3.0)) == (480, 832)
    assert groups.nearest((1920, 1080)) == (832, 480)
    assert groups.nearest((1000, 1100)) == (640, 640)
