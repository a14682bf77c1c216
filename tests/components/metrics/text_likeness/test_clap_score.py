import pytest
import torch

from components.errors import InputError
from components.metrics.text_likeness.clap_score import ClapScore
from components.weights.pretrained import sha256_of
from tests.components.metrics.imagebind.colours_and_pitches import clips, sound_of, with_sound
from tests.public_folders.text_likeness import write_clap_model

RATE = 48_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clap_model(tmp_path_factory.mktemp("clap"))


def value(judge, generation, row=0):
    return judge.score(generation, [row])[0].values["clap_score"]


@torch.no_grad()
def test_it_is_what_transformers_own_program_computes(folder):
    from transformers import ClapFeatureExtractor, ClapModel, RobertaTokenizer

    model = ClapModel.from_pretrained(folder)
    given = clips((["red"] * 2, ["red", "blue"]), rate=RATE, captions=["a dog barks."])
    sound = ClapFeatureExtractor.from_pretrained(folder)(
        given.audio[0].numpy(), sampling_rate=RATE, return_tensors="pt"
    )
    found = model(**RobertaTokenizer.from_pretrained(folder)("a dog barks.", return_tensors="pt"), **sound)
    expected = found.text_embeds[0] @ found.audio_embeds[0]
    assert value(ClapScore(str(folder)), given) == pytest.approx(expected.item(), abs=1e-5)


def test_the_scene_is_the_prompt_where_there_is_one(folder):
    judge = ClapScore(str(folder))
    by_caption = clips((["red"], ["red"]), captions=["a red ball"])
    by_scene = clips((["red"], ["red"]), captions=["a dog"], scenes=["a red ball"])
    assert value(judge, by_caption) == value(judge, by_scene)
    assert value(judge, clips((["red"], ["red"]), captions=["a dog"])) != value(judge, by_scene)
    with pytest.raises(InputError, match="clip 'clip0' has no caption, which clap_score compares with"):
        value(judge, clips((["red"], ["red"]), captions=[""]))


def test_the_middle_of_more_than_ten_seconds_is_heard(folder):
    judge = ClapScore(str(folder))
    clip = clips((["red"], ["red"]), rate=RATE, captions=["a dog"])
    middle = sound_of(["red"] * 5 + ["blue"] * 5, RATE)
    long = torch.cat([sound_of(["green"], RATE), middle, sound_of(["green"], RATE)])
    assert value(judge, with_sound(clip, long[None])) == pytest.approx(value(judge, with_sound(clip, middle[None])))


def test_a_score_does_not_depend_on_the_batch_or_the_rate(folder):
    judge = ClapScore(str(folder))
    given = clips((["red"] * 2, ["red", "blue"]), (["red"] * 2, ["green"] * 2), captions=["a dog", "a lion roars"])
    found = judge.score(given, [1, 0])
    assert found == [judge.score(given, [row])[0] for row in (1, 0)] and found[0] != found[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert judge.score(given, [1, 0]) == found
    at_48 = clips((["red"] * 2, ["red", "blue"]), rate=RATE, captions=["a dog"])
    assert value(judge, at_48) == pytest.approx(value(judge, given), abs=0.02)
    assert not judge.train().training and not any(weight.requires_grad for weight in judge.parameters())


def test_long_prompts_are_cut(folder):
    assert -1 <= value(ClapScore(str(folder)), clips((["red"], ["red"]), captions=["a dog barks. " * 200])) <= 1


def test_no_sound_has_no_score(folder):
    clip = clips((["red"], ["red"]))
    assert ClapScore(str(folder)).score(with_sound(clip, clip.audio[:, :0]), [0])[0].problem == "too_short"


def test_identity_and_shapes(folder):
    found = ClapScore(str(folder)).identity()
    assert found == {"model": str(folder), "sha256": sha256_of(folder / "model.safetensors")}
    with torch.device("meta"):
        assert ClapScore().model.config.projection_dim == 512
