"""CLAP's two towers against the library, pieces of long sounds, and the score of sound and caption."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

from components.errors import InputError
from components.metrics.sound.clap import ClapFeatures, ClapScore
from tests.components.metrics.generations import noise, sounding
from tests.public_folders.audio_models import write_clap, write_clap_tokenizer

RATE = 48000


@pytest.fixture(scope="module", params=[False, True], ids=["unfused", "fused"])
def folder(request, tmp_path_factory) -> Path:
    return write_clap_tokenizer(write_clap(tmp_path_factory.mktemp("clap"), request.param))


def librarys(folder: Path, sound: torch.Tensor, caption: str) -> tuple[torch.Tensor, torch.Tensor]:
    model = ClapModel.from_pretrained(folder).eval()
    fed = ClapFeatureExtractor.from_pretrained(folder)(sound.numpy(), sampling_rate=RATE, return_tensors="pt")
    fed["is_longer"] = torch.zeros(1, 1, dtype=torch.bool)  # the front end marks one clip at random where none is
    ids = AutoTokenizer.from_pretrained(folder)(caption, return_tensors="pt")
    with torch.no_grad():
        return model.get_audio_features(**fed).pooler_output[0], model.get_text_features(**ids).pooler_output[0]


def test_features_and_score_are_the_librarys(folder: Path):
    sounds = torch.stack([noise(3.0, RATE, seed) for seed in range(2)])
    generation = sounding(sounds, RATE, captions=["a dog barks", "rain"])
    heard, read = librarys(folder, sounds[1], "rain")
    features = ClapFeatures(str(folder))
    (found,) = features.features(generation, [1])
    assert found.shape == (1, features.dim) and found.dtype == torch.float32
    torch.testing.assert_close(found[0], heard, atol=1e-5, rtol=0)
    scorer = ClapScore(str(folder))
    _, score = scorer.score(generation, [0, 1])
    assert score.values["clap_score"] == pytest.approx(
        float(functional.cosine_similarity(heard, read, dim=0)), abs=1e-5
    )
    assert scorer.identity() == features.identity()


def test_the_caption_and_the_sound_matter(folder: Path):
    scorer = ClapScore(str(folder))
    same = noise(2.0, RATE)
    generation = sounding(torch.stack([same, same, noise(2.0, RATE, 1)]), RATE, captions=["a dog", "a frog", "a dog"])
    values = [scores.values["clap_score"] for scores in scorer.score(generation, [0, 1, 2])]
    assert len(set(values)) == 3 and all(-1 <= value <= 1 for value in values)
    scene = sounding(same[None], RATE, captions=["a person"], scenes=["a frog"])
    assert scorer.score(scene, [0])[0].values["clap_score"] == pytest.approx(values[1], abs=1e-6)
    untold = sounding(same[None], RATE, captions=["  "])
    assert scorer.score(untold, [0])[0].problem == "no_caption"


def test_long_sounds_are_heard_in_equal_pieces(folder: Path):
    features = ClapFeatures(str(folder))
    sound = noise(24.0, RATE)
    found = features.features(sounding(sound[None], RATE), [0])[0]
    assert found.shape == (3, features.dim)
    second = features.features(sounding(sound[None, 8 * RATE : 16 * RATE], RATE), [0])[0]
    torch.testing.assert_close(found[1], second[0], atol=1e-5, rtol=0)


def test_public_size_and_refusals(folder: Path, tmp_path: Path):
    with torch.device("meta"):
        features = ClapFeatures()
    assert features.dim == 512 and sum(p.numel() for p in features.parameters()) / 1e6 == pytest.approx(153.5, abs=1)
    bare = write_clap(tmp_path)
    with pytest.raises(InputError, match=r"has no tokenizer.json and no vocab.json"):
        ClapScore(str(bare))
