"""The public release's layout, its mistakes, and its arguments on a command line."""

import json
import shutil
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from components.errors import InputError
from components.media.clock import ClipShape
from components.metrics.cyclesync.onsets import OnsetDetector
from datamodules.avsync15 import AVSync15
from datamodules.reading.clip_data_module import ClipDataModule
from tests.public_folders.avsync15 import write_avsync15

SMALL = {"clip": ClipShape(num_frames=24, fps=24.0, height=16, width=16), "num_workers": 0}


@pytest.fixture
def broken(avsync_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(avsync_root, tmp_path / "AVSync15"))


def test_records_hold_what_the_lists_say(avsync_root: Path) -> None:
    records = AVSync15(str(avsync_root), **SMALL).records("train")
    assert len(records) == 7
    assert records[0].id == records[0].video_id == "dog_barking/train_0"
    assert records[0].path == avsync_root / "videos/dog_barking/train_0.mp4"
    assert records[0].caption == "dog barking"
    assert records[0].onsets is None
    data = AVSync15(str(avsync_root), **SMALL)
    assert data.records("val") == data.records("test")
    assert len(data.records("test")) == 3


def test_true_onsets_are_read_where_they_are_given(broken: Path) -> None:
    (broken / "onsets.json").write_text(json.dumps({"dog_barking/test_0.mp4": [0.5, 1.25]}))
    records = AVSync15(str(broken), **SMALL).records("test")
    assert [record.onsets for record in records] == [(0.5, 1.25), None, None]


def test_a_missing_folder_or_list(tmp_path: Path, broken: Path) -> None:
    with pytest.raises(InputError, match=r"the data folder .*nowhere does not exist; set root"):
        AVSync15(str(tmp_path / "nowhere"), **SMALL).setup("fit")
    (broken / "train.txt").unlink()
    with pytest.raises(InputError, match=r"train\.txt does not exist; root must be a folder with train\.txt"):
        AVSync15(str(broken), **SMALL).setup("fit")


def test_an_empty_list(broken: Path) -> None:
    (broken / "test.txt").write_text("\n\n")
    with pytest.raises(InputError, match=r"test\.txt is empty; it must list"):
        AVSync15(str(broken), **SMALL).setup("test")


def test_an_entry_without_file_or_prompt(broken: Path) -> None:
    (broken / "train.txt").write_text("dog_barking/gone.mp4\n")
    with pytest.raises(InputError, match=r"train\.txt lists dog_barking/gone\.mp4 but .*gone\.mp4 does not exist"):
        AVSync15(str(broken), **SMALL).setup("fit")
    (broken / "train.txt").write_text("cat_meowing/a.mp4\n")
    with pytest.raises(InputError, match=r"class_mapping\.json has no prompt for the class 'cat_meowing'"):
        AVSync15(str(broken), **SMALL).setup("fit")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist; the AVSync15 layout needs it"), ("{", "is not valid JSON"), ("[1]", "holds a list")],
)
def test_a_bad_class_mapping(broken: Path, content: str | None, message: str) -> None:
    path = broken / "class_mapping.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=rf"class_mapping\.json {message}"):
        AVSync15(str(broken), **SMALL).setup("fit")


@pytest.mark.parametrize("name", ["batch_size", "val_batch_size", "clips_per_video", "max_val_clips"])
def test_numbers_that_make_no_sense(avsync_root: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} is 0"):
        AVSync15(str(avsync_root), **{**SMALL, name: 0})
    with pytest.raises(InputError, match="seed is -1; it must be at least 0"):
        AVSync15(str(avsync_root), seed=-1)


def test_every_argument_is_known_to_the_command_line(avsync_root: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ClipDataModule, "data")
    parsed = parser.parse_args(
        [
            "--data=datamodules.avsync15.AVSync15",
            f"--data.root={avsync_root}",
            "--data.clip.fps=12",
            "--data.on_corrupt=skip",
        ]
    )
    data = parser.instantiate_classes(parsed).data
    assert isinstance(data, AVSync15)
    assert (data.clip.fps, data.clip.num_frames, data.clip.height, data.clip.width) == (12.0, 121, 384, 640)
    with pytest.raises(Exception, match="frames_per_clip"):
        parser.parse_args(["--data=datamodules.avsync15.AVSync15", "--data.root=x", "--data.frames_per_clip=3"])


def test_a_folder_like_the_public_release_is_read_and_heard_where_it_is_said(tmp_path: Path) -> None:
    truth = write_avsync15(tmp_path, num_train=3, num_test=3, height=64, width=128, seconds=2.0)
    module = AVSync15(str(tmp_path), clip=ClipShape(48, 24.0, 64, 128), num_workers=0, val_batch_size=3)
    module.setup("fit")
    batch = next(iter(module.val_dataloader()))
    assert list(batch.captions) == ["hammering", "striking bowling", "baby babbling crying"]
    assert batch.onsets is None
    assert batch.video.shape == (3, 48, 3, 64, 128)
    for name, heard in zip(batch.ids, OnsetDetector(gate_db=-50.0)(batch.audio, 16000), strict=True):
        onsets = truth[f"{name}.mp4"]
        assert len(onsets) == len(heard)
        assert all(abs(time - onset) < 0.04 for time, onset in zip(heard, onsets, strict=True))
