"""Folders as people have them: nested, any container, captions in texts, objects or tables."""

import json
from pathlib import Path
from time import process_time
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.errors import InputError
from datamodules.folder_clips import FolderClips
from datamodules.reading.folder import HeldOut, groups_held_out, read_folder
from datamodules.speech_clips import SpeechClips
from tests.datamodules.conftest import clip_of, write_recording

NAMES = ("a.mp4", "beach/b.mp4", "beach/deep/c.mkv", "d.mov")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four empty files, of which only the names matter."""
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def read(root: Path, columns: dict[str, str] | None = None, prompt: str | None = None, **held: Any) -> dict[str, str]:
    """Captions by id."""
    found = read_folder(root, columns or {}, prompt, HeldOut(**held))
    return {record.id: record.caption for records in found.values() for record in records}


def test_texts_objects_and_the_prompt_give_captions(folder: Path):
    (folder / "a.txt").write_text("a bell\n rings ", encoding="utf-8-sig")
    (folder / "beach/b.txt").write_text("Möwen", encoding="utf-16")
    (folder / "beach/deep/c.json").write_text(json.dumps({"text": "waves", "speaker": "sea", "onsets": [1, 0.5]}))
    assert read(folder, prompt="nothing") == {
        "a": "a bell rings",
        "beach/b": "Möwen",
        "beach/deep/c": "waves",
        "d": "nothing",
    }
    records = [r for rs in read_folder(folder, {}, "nothing", HeldOut()).values() for r in rs]
    assert [(r.speaker, r.onsets) for r in records if r.id == "beach/deep/c"] == [("sea", (0.5, 1.0))]
    with pytest.raises(InputError, match=r"d\.mov has no caption; write it to d\.txt beside it, or set prompt"):
        read(folder)


@pytest.mark.parametrize(
    ("table", "text", "columns"),
    [
        ("metadata.csv", 'file_name,text\na.mp4,"a, bell"\nbeach/b.mp4,gulls\n', {}),
        ("captions.csv", 'path,caption,take\n./a.mp4,"a, bell",3\nbeach/b.mp4,gulls,4\n', {}),
        (
            "metadata.jsonl",
            '{"file_name": "a.mp4", "caption": "a, bell"}\n\n{"file_name": "beach/b.mp4", "text": "gulls"}\n',
            {},
        ),
        (
            "captions.jsonl",
            '{"clip": "a.mp4", "label": "a, bell"}\n{"clip": "beach/b.mp4", "label": "gulls"}\n',
            {"video": "clip", "caption": "label"},
        ),
    ],
)
def test_tables_of_every_form(folder: Path, table: str, text: str, columns: dict[str, str], caplog: Any):
    (folder / table).write_text(text)
    with caplog.at_level("WARNING"):
        assert read(folder, columns) == {"a": "a, bell", "beach/b": "gulls"}
    assert "does not name 2 of the 4 media files" in caplog.text


def test_files_that_differ_in_suffix_alone_keep_it(folder: Path):
    (folder / "a.MKV").touch()
    (folder / ".a.mp4").touch()  # what a file manager left
    assert set(read(folder, prompt="x")) == {"a.MKV", "a.mp4", "beach/b", "beach/deep/c", "d"}


def splits(root: Path, **held: Any) -> dict[str, str]:
    found = read_folder(root, {}, "x", HeldOut(**held))
    return {record.id: str(split) for split, records in found.items() for record in records}


def test_the_division_is_seeded_and_stays_when_clips_are_added(tmp_path: Path):
    for k in range(40):
        (tmp_path / f"{k}.mp4").touch()
    first = splits(tmp_path, share=0.25)
    assert 5 <= sum(split == "test" for split in first.values()) <= 15
    assert splits(tmp_path, share=0.25) == first != splits(tmp_path, share=0.25, seed=1)
    for k in range(40, 400):
        (tmp_path / f"{k}.mp4").touch()
    more = splits(tmp_path, share=0.25)
    assert all(more[name] == split for name, split in first.items())
    assert 80 <= sum(split == "test" for split in more.values()) <= 120


@given(st.sets(st.text(), min_size=2, max_size=30), st.floats(0.001, 0.999), st.integers(0, 9))
def test_at_least_one_group_is_held_out_and_one_is_not(names: set[str], share: float, seed: int):
    kept = groups_held_out(names, share, seed)
    assert kept < names and kept
    assert kept == groups_held_out(sorted(names), share, seed)


def test_suffixes_in_capitals_and_ones_that_are_no_videos(tmp_path: Path, caplog: Any):
    for name in ("A.MP4", "A.TXT", "b.mxf", "b.txt", "c.xyz", "c.txt", "d.mov", "d.JSON", "d.jpg", "README.txt"):
        (tmp_path / name).write_text('{"caption": "said in d"}' if name == "d.JSON" else f"said in {name}")
    assert read(tmp_path, prompt="a caption") == {"A": "said in A.TXT", "b": "said in b.txt", "d": "said in d"}
    (warning,) = caplog.records
    assert "1 files with a text of their own that have no suffix of a video, such as c.xyz" in warning.getMessage()


def test_groups_are_not_divided(tmp_path: Path):
    rows = ["video,caption,scene"]
    for k in range(30):
        (tmp_path / f"{k}.mp4").touch()
        rows.append(f"{k}.mp4,x,{'abcde'[k % 5]}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    found = splits(tmp_path, group="scene", share=0.3)
    by_scene = {scene: {found[str(k)] for k in range(30) if "abcde"[k % 5] == scene} for scene in "abcde"}
    assert all(len(kinds) == 1 for kinds in by_scene.values())
    assert sum(split == "test" for split in found.values()) in (6, 12, 18, 24)  # whole scenes
    (tmp_path / "metadata.csv").write_text("\n".join([*rows[:-1], "29.mp4,x,"]))
    with pytest.raises(InputError, match=r"line 31 has no 'scene', by which clips are grouped"):
        splits(tmp_path, group="scene")


def test_a_list_or_a_column_divides(folder: Path):
    (folder / "held.lst").write_text("beach/b.mp4\nd\n")
    found = splits(folder, test_list="held.lst")
    assert {name for name, split in found.items() if split == "test"} == {"beach/b", "d"}
    (folder / "held.lst").write_text("beach/x.mp4\n")
    with pytest.raises(InputError, match=r"held\.lst names beach/x\.mp4, which is not among the clips"):
        splits(folder, test_list="held.lst")
    (folder / "metadata.csv").write_text("file_name,text,split\na.mp4,x,train\nd.mov,y,val\n")
    assert splits(folder) == {"a": "train", "d": "val"}
    (folder / "metadata.csv").write_text("file_name,text,split\na.mp4,x,train\nd.mov,y,\n")
    with pytest.raises(InputError, match=r"line 3 has no split and others have one"):
        splits(folder)


@pytest.mark.parametrize(
    ("files", "columns", "message"),
    [
        (
            {"metadata.csv": "file_name\ngone.mp4"},
            {},
            r"line 2: the row names gone\.mp4 as video but .* does not exist",
        ),
        ({"metadata.csv": "file_name\n../a.mp4"}, {}, r"line 2: the row names \.\./a\.mp4, which lies outside"),
        ({"metadata.csv": "file_name\n/etc/a.mp4"}, {}, r"line 2: the row names /etc/a\.mp4, which lies outside"),
        (
            {"metadata.csv": "file_name\na.mp4\na.mp4"},
            {},
            r"line 3 has the id 'a', which .*line 2 has too; ids must be unique",
        ),
        ({"metadata.csv": "name,x\na.mp4,x"}, {"video": "file"}, r"takes video from 'file', which is not there"),
        ({"metadata.csv": "name,x\na.mp4,x"}, {}, r"line 2: the row has neither id nor video nor audio"),
        ({"a.txt": "one"}, {"picture": "file"}, r"columns names 'picture', which is no column of ours"),
        ({"metadata.csv": "file_name\na.mp4", "captions.csv": ""}, {}, r"metadata\.csv and captions\.csv; keep one"),
        (
            {"metadata.csv": "file_name,text\na.mp4,x", "a.txt": "y"},
            {},
            r"line 2 gives the caption 'x' and .*a\.txt gives 'y'; keep one",
        ),
        ({"a.json": "[1]"}, {}, r"a\.json holds a list; it must hold one object"),
        ({"a.json": "{"}, {}, r"a\.json is not valid JSON"),
    ],
)
def test_what_cannot_be_used_is_named(folder: Path, files: dict[str, str], columns: dict[str, str], message: str):
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read(folder, columns, prompt="x")


def test_a_folder_without_videos_or_with_one_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"the data folder .*gone does not exist"):
        read(tmp_path / "gone")
    (tmp_path / "a.wav").touch()
    with pytest.raises(InputError, match=r"holds no media files \(\.3g2, \.3gp, .*in no folder below it either"):
        read(tmp_path)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(InputError, match=r"holds 1 group of clips, which cannot be divided"):
        read(tmp_path, prompt="x")


def test_captions_beside_hdtf_clips_are_not_passed_over(folder: Path):
    (folder / "a.txt").write_text("a bell")
    module = SpeechClips(str(folder), hold_out_every=2)
    with pytest.raises(InputError, match=r"a\.mp4 has a caption in a\.txt, .*FolderClips"):
        module.records("train")


def test_clips_and_captions_come_out(tmp_path: Path):
    for k in range(4):
        write_recording(tmp_path / "phone" / f"{k}.mp4", 2.0, k)
        (tmp_path / "phone" / f"{k}.txt").write_text(f"tone {k}")
    settings: dict[str, Any] = {"batch_size": 2, "val_batch_size": 1, "num_workers": 0, "hold_out": 0.25}
    clip = clip_of(settings, num_frames=25, fps=24.0, height=16, width=16, sample_rate=16000)
    module = FolderClips(str(tmp_path), clip=clip, **settings)
    module.setup("fit")
    (held,) = list(module.val_dataloader())
    batch = next(iter(module.train_dataloader()))
    assert batch.video.shape == (2, 25, 3, 16, 16) and torch.is_tensor(batch.audio)
    for name, caption in zip((*batch.ids, *held.ids), (*batch.captions, *held.captions), strict=True):
        assert caption == f"tone {name.split('@')[0].removeprefix('phone/')}"
    assert not {name.split("@")[0] for name in batch.ids} & {name.split("@")[0] for name in held.ids}


def test_holding_out_many_clips_takes_no_square_of_their_number(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    rows = "".join(f"a.mp4,a bell,{number}\n" for number in range(40_000))
    (tmp_path / "metadata.csv").write_text(f"file_name,caption,id\n{rows}")
    begin = process_time()
    data = FolderClips(str(tmp_path), group="id", hold_out=0.5)
    assert [len(data.records(split)) for split in ("train", "test")] == pytest.approx([20_000, 20_000], rel=0.03)
    assert process_time() - begin < 5  # one second where nothing else is at work; a square took ten and more
