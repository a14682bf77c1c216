import sys
from argparse import ArgumentParser
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from components.contracts import clip_generator
from components.errors import InputError
from components.v2a.mmaudio_v2a import MMAudioV2A
from components.v2a.runners.mmaudio_model import MMAudio, seen
from components.v2a.runners.program import Clip
from components.v2a.subprocess_v2a import SubprocessV2A
from tests.components.v2a.runners import stand_ins


@pytest.fixture
def weights(tmp_path):
    return stand_ins.mmaudio_weights(tmp_path / "MMAudio")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = stand_ins.hub_cache(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def package(tmp_path, monkeypatch):
    place = stand_ins.mmaudio_package(tmp_path / "site")
    monkeypatch.syspath_prepend(str(place))
    yield place
    for name in [name for name in sys.modules if name.split(".")[0] == "mmaudio"]:
        del sys.modules[name]


@pytest.fixture
def video():
    clips = torch.zeros(2, 50, 3, 36, 64)
    clips[0, [10, 30]], clips[1, 47] = 1.0, 1.0
    return clips


def onsets(sound, rate, threshold):
    loud = sound > threshold
    return ((loud[1:] & ~loud[:-1]).nonzero().flatten() / rate).tolist()


def test_flash_is_heard_when_it_is_seen_here_and_elsewhere(package, weights, cache, video, tmp_path, monkeypatch):
    generators = [clip_generator(name, 0) for name in "ab"]
    given = (video, 24.0, ["a drum", "a dog"], generators)
    here = MMAudioV2A(str(weights), negative_prompt="music")
    sound, rate = here(*given)
    assert (sound.shape, rate) == ((2, round(50 / 24 * 44_100)), 44_100)
    assert onsets(sound[0], rate, 0.2) == pytest.approx([10 / 24, 30 / 24], abs=0.04)
    assert onsets(sound[1], rate, 0.1) == pytest.approx([47 / 24], abs=0.04)
    assert torch.equal(here(video[1:], 24.0, ["a dog"], generators[1:])[0][0], sound[1])  # in whatever company
    assert not torch.equal(here(video[1:], 24.0, ["a dog"], [clip_generator("c", 0)])[0][0], sound[1])

    stand_ins.write(package, {"components/__init__.py": "raise ImportError('not here')"})
    monkeypatch.setenv("PYTHONPATH", str(package))
    command = f"'{sys.executable}' {{runners}}/program.py mmaudio --weights '{weights}' --negative-prompt music"
    elsewhere = SubprocessV2A(f"{command} --device cpu", str(tmp_path / "work"), sample_rate=44_100)
    assert (elsewhere(*given)[0] - sound).abs().max() < 0.02  # H.264 and 16 bit


def test_judge_is_known_by_its_weights_and_settings(package, weights, cache):
    judge = MMAudioV2A(str(weights), "small_16k", negative_prompt="music", num_steps=25)
    assert judge.identifying_settings() == {
        "variant": "small_16k", "num_steps": 25, "cfg_strength": 4.5, "negative_prompt": "music",
        "precision": "bfloat16",
    }  # fmt: skip
    assert {name: item.tolist() for name, item in judge.state_dict().items()} == {
        "net.weight": [16.0] * 3, "features.weight": [0.0] * 2
    }  # fmt: skip
    assert not any(item.requires_grad for item in judge.parameters())
    sound, rate = judge(torch.rand(1, 5, 3, 16, 16), 24.0)  # shorter than Synchformer takes
    assert (sound.shape, rate) == ((1, round(5 / 24 * 16_000)), 16_000)


@pytest.mark.parametrize("count", [18, 40, 100])
def test_frames_agree_with_the_tokens_at_every_length(package, weights, cache, count):
    """The stand-in refuses features and token counts of different durations, as the package does."""
    judge = MMAudioV2A(str(weights), negative_prompt="music")
    sound, rate = judge(torch.zeros(1, count, 3, 8, 8), 24.0)
    assert sound.shape == (1, round(count / 24 * rate))


def test_pictures_of_both_rates():
    frames = torch.arange(48, dtype=torch.uint8)[:, None, None, None].expand(48, 3, 4, 6) * 5
    pictures, motion = seen(Clip(frames, 24.0), 2.125)
    assert (pictures.shape, motion.shape) == ((17, 3, 384, 384), (53, 3, 224, 224))
    assert (pictures[:, 0, 0, 0] * 255).round().int().tolist() == [5 * min(3 * n, 47) for n in range(17)]
    assert ((motion[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()[-4:] == [5 * 47] * 4


def given_for(weights, *more):
    parser = ArgumentParser()
    MMAudio.add_arguments(parser)
    return parser.parse_args(["--weights", str(weights), *more])


def test_what_is_missing_is_named(package, weights, cache):
    assert MMAudio.complaint(given_for(weights)) is None
    bigvgan = next(cache.glob("models--nvidia*/snapshots/abc/config.json"))
    bigvgan.unlink()
    assert MMAudio.complaint(given_for(weights, "--variant", "small_16k")) is None  # which has its own vocoder
    assert "hf download nvidia/bigvgan_v2_44khz_128band_512x" in str(MMAudio.complaint(given_for(weights)))
    (weights / "ext_weights" / "v1-44.pth").rename(weights / "v1-44.pth")  # all in one folder will do
    assert "holds no" not in str(MMAudio.complaint(given_for(weights)))
    (weights / "v1-44.pth").unlink()
    assert "holds no 'v1-44.pth'; download it from https://huggingface.co/hkchengrex/MMAudio (CC-BY-NC 4.0)" in str(
        MMAudio.complaint(given_for(weights))
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "huge"}, "MMAudioV2A: variant is 'huge'; MMAudio has small_16k, small_44k"),
        ({"num_steps": 0}, "MMAudioV2A: num_steps is 0; it has to be at least 1"),
        ({"precision": "int8"}, "MMAudioV2A: precision is 'int8'; give float32, bfloat16, float16"),
        (
            {},
            r"mmaudio is not installed .*; pip install git\+https://github.com/hkchengrex/MMAudio \(code MIT, weights",
        ),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings, message):
    with pytest.raises(InputError, match=message):
        MMAudioV2A(str(tmp_path), **settings)
