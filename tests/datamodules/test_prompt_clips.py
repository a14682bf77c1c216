import json

import numpy as np
import pytest
import torch
from PIL import Image

from components.errors import InputError
from components.media.clock import ClipShape
from components.media.lossless import write_lossless
from datamodules.prompt_clips import PromptClips
from lightning_modules.judged_files.matching import listed_files

CLIP = ClipShape(num_frames=12, fps=12.0, height=16, width=32)


def batches(root, **settings):
    data = PromptClips(str(root), CLIP, **settings)
    data.setup("test")
    return data.clip_names("test"), list(data.test_dataloader())


def test_a_list_gives_words_and_no_real_clip(tmp_path):
    rows = [
        {"id": "a", "subset": "speech", "spoken word en": "hello", "video caption": "a man"},
        {"id": "b", "subset": "ambient", "audio caption": "rain", "video caption": "a roof"},
    ]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names, (batch,) = batches(tmp_path / "list.jsonl", batch_size=2)
    assert names == list(batch.ids) == ["a", "b"]
    assert batch.video.shape == (2, 0, 3, 16, 32) and batch.audio.shape == (2, 0)
    assert (batch.captions, batch.transcripts, batch.scenes) == (["a man", "a roof"], ["hello", ""], ["", "rain"])
    assert (batch.languages, batch.subsets, batch.valid.tolist()) == (["en", ""], ["speech", "ambient"], [True, True])


def test_a_reference_image_is_the_only_frame(tmp_path):
    Image.fromarray(np.full((32, 64, 3), 90, np.uint8)).save(tmp_path / "a.png")
    rows = [{"id": "a", "caption": "x", "reference_image": "a.png"}, {"id": "b", "caption": "y"}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    # one has a picture and one has none: they cannot share a batch
    _, (first, second) = batches(tmp_path / "list.jsonl", batch_size=2)
    assert first.video.shape == (1, 1, 3, 16, 32) and (first.video == 90).all()
    assert second.video.shape == (1, 0, 3, 16, 32)


def test_first_frames_may_lie_in_a_folder(tmp_path):
    (tmp_path / "first").mkdir()
    for name, grey in {"a": 90, "first/b": 30}.items():
        Image.fromarray(np.full((32, 64, 3), grey, np.uint8)).save(tmp_path / f"{name}.png")
    rows = [{"id": "a", "caption": "x", "reference_image": "a.png"}, {"id": "b", "caption": "y"}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, (batch,) = batches(tmp_path / "list.jsonl", batch_size=2, images=str(tmp_path / "first"))
    assert batch.video[:, 0, 0, 0, 0].tolist() == [90, 30]
    (tmp_path / "first/b.png").unlink()
    with pytest.raises(InputError, match="first has no picture b "):
        batches(tmp_path / "list.jsonl", images=str(tmp_path / "first"))


def test_a_folder_gives_names_and_what_is_said(tmp_path):
    for name in ("b", "x/a"):
        write_lossless(tmp_path / f"{name}.mov", torch.zeros(2, 3, 16, 16, dtype=torch.uint8), 24.0)
    (tmp_path / "b.json").write_text(json.dumps({"caption": "a dog", "transcript": "wow", "language": "en"}))
    names, (batch, other) = batches(tmp_path)
    assert names == ["b", "x/a"]
    assert (batch.captions, batch.transcripts, batch.languages) == (["a dog"], ["wow"], ["en"])
    assert (other.captions, other.transcripts) == ([""], None)


def test_a_manifest_of_files_gives_names_and_what_is_said(tmp_path):
    for file in ("elsewhere/b.mp4", "x/a.mp4", "in/c.mp4", "in/d.mp4"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()  # pictures are not read
    rows = [
        {
            "id": 7,
            "video": f"{tmp_path}/elsewhere/b.mp4",
            "caption": "a dog",
            "start": 0.5,
            "steps": 30,
            "recording": "r",
        },
        {"file_name": "../x/a.mp4", "video caption": "a man", "spoken word zh": "nihao", "subset": "speech"},
        {"path": "c.mp4", "text": "a cat"},
        {"file": "d.mp4"},
    ]
    manifest = tmp_path / "in/made.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names, (batch,) = batches(manifest, batch_size=4)
    assert names == ["7", "../x/a", "c", "d"] == list(listed_files(str(manifest)).values())
    assert batch.captions == ["a dog", "a man", "a cat", ""]
    assert (batch.transcripts, batch.languages) == (["", "nihao", "", ""], ["", "zh", "", ""])
    assert batch.video_ids == ["r", "../x/a.mp4", "c.mp4", "d.mp4"]
    manifest.write_text('{"video": "c.mp4"}\n{"id": "b"}\n')
    with pytest.raises(InputError, match=r"made.jsonl, line 2: the row names no file; give it a column video"):
        batches(manifest)


def test_the_form_of_the_clips_must_be_known(tmp_path):
    with pytest.raises(InputError, match="clip is not given"):
        PromptClips(str(tmp_path))
