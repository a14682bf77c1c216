import json

import numpy as np
import pytest
import torch
from PIL import Image

from components.errors import InputError
from components.media.clock import ClipShape
from components.media.lossless import write_lossless
from datamodules.prompt_clips import PromptClips

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


def test_a_folder_gives_names_and_what_is_said(tmp_path):
    for name in ("b", "x/a"):
        write_lossless(tmp_path / f"{name}.mov", torch.zeros(2, 3, 16, 16, dtype=torch.uint8), 24.0)
    (tmp_path / "b.json").write_text(json.dumps({"caption": "a dog", "transcript": "wow", "language": "en"}))
    names, (batch, other) = batches(tmp_path)
    assert names == ["b", "x/a"]
    assert (batch.captions, batch.transcripts, batch.languages) == (["a dog"], ["wow"], ["en"])
    assert (other.captions, other.transcripts) == ([""], None)


def test_the_form_of_the_clips_must_be_known(tmp_path):
    with pytest.raises(InputError, match="clip is not given"):
        PromptClips(str(tmp_path))
