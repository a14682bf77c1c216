import json

import pytest
import torch

from components.errors import InputError
from components.metrics.video.clip_score import ClipScore
from components.weights.pretrained import sha256_of
from tests.components.metrics.imagebind.colours_and_pitches import clips
from tests.public_folders.clip_model import write_clip_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clip_model(tmp_path_factory.mktemp("clip"))


def two_clips(**batch):
    pairs = ((["red", "blue", "green"], ["red"] * 3), (["green"] * 3, ["red"] * 3))
    return clips(*pairs, captions=["a dog barks", "a violin plays slowly"], **batch)


@torch.no_grad()
def test_it_is_what_transformers_own_program_computes(folder):
    from transformers import CLIPModel, CLIPProcessor

    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    given = two_clips()
    index = torch.linspace(0, 71, 48).long()
    frames = list(given.reference.video[0, index])
    inputs = processor(text=["a dog barks"], images=frames, return_tensors="pt")
    found = model(**inputs)
    expected = (found.image_embeds @ found.text_embeds.T).mean()
    value = ClipScore(str(folder)).score(given, [0])[0].values["clip_score"]
    assert value == pytest.approx(expected.item(), abs=2e-3)


def test_a_score_does_not_depend_on_batch_parts_or_autocast(folder):
    judge, given = ClipScore(str(folder)), two_clips()
    found = judge.score(given, [1, 0])
    assert found == [judge.score(given, [row])[0] for row in (1, 0)]
    assert found[0] != found[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert judge.score(given, [1, 0]) == found
    in_parts = ClipScore(str(folder), frames_at_once=7).score(given, [1])[0].values["clip_score"]
    assert in_parts == pytest.approx(found[0].values["clip_score"], abs=1e-6)
    assert not judge.train().training and not any(weight.requires_grad for weight in judge.parameters())


def test_another_caption_is_another_score(folder):
    judge = ClipScore(str(folder), num_frames=3)
    same, other = (clips((["red"] * 2, ["red"] * 2), captions=[text]) for text in ("a dog barks", "a lion roars"))
    assert abs(judge.score(same, [0])[0].values["clip_score"] - judge.score(other, [0])[0].values["clip_score"]) > 1e-3
    long = clips((["red"] * 2, ["red"] * 2), captions=["the dog barks " * 60])
    assert -1 <= judge.score(long, [0])[0].values["clip_score"] <= 1


def test_identity(folder):
    found = ClipScore(str(folder)).identity()
    assert json.loads(json.dumps(found)) == found
    assert found == {"model": str(folder), "sha256": sha256_of(folder / "model.safetensors"), "num_frames": 48}


def test_what_cannot_be_used(folder, tmp_path):
    with pytest.raises(InputError, match="clip 'clip0' has no caption, which clip_score compares with"):
        ClipScore(str(folder)).score(clips((["red"] * 2, ["red"] * 2), captions=[""]), [0])
    for name in ("num_frames", "frames_at_once"):
        with pytest.raises(InputError, match=f"ClipScore.{name} is 0"):
            ClipScore(str(folder), **{name: 0})
    with pytest.raises(InputError, match="was not found"):
        ClipScore(str(tmp_path / "none"))
    with torch.device("meta"):
        assert ClipScore().model.config.vision_config.image_size == 224


def test_a_damaged_tokenizer_is_named(tmp_path):
    folder = write_clip_model(tmp_path / "clip")
    (folder / "vocab.json").write_text("{")
    with pytest.raises(InputError, match=r"the tokenizer in '.*clip' cannot be loaded"):
        ClipScore(str(folder))
