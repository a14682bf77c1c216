"""Cnn14: its spectrogram, its public keys, files that say of which size they are; features and KL."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchaudio.functional import melscale_fbanks

from components.errors import InputError
from components.metrics.distributions.classes import class_divergence
from components.metrics.sound.kl import ClassDivergence
from components.metrics.sound.panns import Cnn14, Panns
from components.metrics.sound.tagger import TaggerFeatures
from tests.components.metrics.generations import noise, sounding, tone

BLOCK = [f"{kind}{n}" for n in (1, 2) for kind in ("conv", "bn")]


def write_panns(file: Path, window: int = 512, seed: int = 0) -> Path:
    """A narrow Cnn14 as PANNs' training script writes it, with its sampler's arrays."""
    torch.manual_seed(seed)
    net = Cnn14(window, width=2, num_classes=5)
    # narrow layers hear little difference: it is enlarged, around what a tone is
    torch.nn.init.normal_(net.fc_audioset.weight, std=300.0)
    with torch.no_grad():
        embedding, _ = net.eval()(tone(440, 1.0, net.sample_rate)[None])
        net.fc_audioset.bias.copy_(-net.fc_audioset.weight @ embedding[0])
    sampler = {"indexes": np.arange(7), "queue": [np.int64(3)], "pointer": 2}
    torch.save({"iteration": 600000, "model": net.state_dict(), "sampler": sampler}, file)
    return file


@pytest.fixture(scope="module")
def panns(tmp_path_factory) -> Panns:
    return Panns(str(write_panns(tmp_path_factory.mktemp("panns") / "Cnn14.pth")))


@pytest.mark.parametrize(("window", "rate", "max_hz"), [(512, 16000, 8000.0), (1024, 32000, 14000.0)])
def test_the_spectrogram_is_decibels_of_mel_power(window: int, rate: int, max_hz: float):
    sound = noise(0.5, rate)[None]
    found = torch.stft(sound, window, rate // 100, window=torch.hann_window(window), return_complex=True)
    filters = melscale_fbanks(window // 2 + 1, 50.0, max_hz, 64, rate, "slaney", "slaney")
    wanted = 10 * (found.abs().square().mT @ filters).clamp(min=1e-10).log10()
    torch.testing.assert_close(Cnn14(window).log_mel(sound), wanted, atol=2e-3, rtol=0)


def test_public_keys_and_size():
    with torch.device("meta"):
        tagger = Panns("Cnn14_16k_mAP=0.438.pth")
    shapes = {key: tuple(value.shape) for key, value in tagger.net.state_dict().items()}
    moments = ["running_mean", "running_var", "num_batches_tracked"]
    norm = ["weight", "bias", *moments]
    wanted = {f"bn0.{name}" for name in norm} | {f"{fc}.{name}" for fc in ("fc1", "fc_audioset") for name in norm[:2]}
    for block in range(1, 7):
        wanted |= {f"conv_block{block}.conv{n}.weight" for n in (1, 2)}
        wanted |= {f"conv_block{block}.bn{n}.{name}" for n in (1, 2) for name in norm}
    stft = {f"spectrogram_extractor.stft.conv_{part}.weight" for part in ("real", "imag")}
    assert set(shapes) == wanted | stft | {"logmel_extractor.melW"}
    assert shapes["logmel_extractor.melW"] == (257, 64)
    assert shapes["spectrogram_extractor.stft.conv_real.weight"] == (257, 1, 512)
    assert shapes["conv_block6.conv2.weight"] == (2048, 2048, 3, 3) and shapes["fc_audioset.weight"] == (527, 2048)
    assert (tagger.sample_rate, tagger.dim, tagger.num_classes) == (16000, 2048, 527)


def test_a_file_says_of_which_size_and_rate_it_is(tmp_path: Path, panns: Panns):
    assert (panns.sample_rate, panns.dim, panns.num_classes) == (16000, 64, 5)
    fast = Panns(str(write_panns(tmp_path / "fast.pth", window=1024)))
    assert fast.sample_rate == 32000
    assert fast.identity()["weights_sha256"] != panns.identity()["weights_sha256"]


def test_features_do_not_depend_on_the_batch_or_mode(panns: Panns):
    sounds = torch.stack([noise(1.0, 16000, seed) for seed in range(3)])
    features = TaggerFeatures(panns)
    features.train()
    together = features.features(sounding(sounds, 16000), [2, 0])
    alone = features.features(sounding(sounds[2:], 16000), [0])
    assert torch.equal(together[0], alone[0]) and together[0].shape == (1, features.dim)
    logits = TaggerFeatures(panns, "logits")
    assert logits.dim == 5 and logits.features(sounding(sounds, 16000), [0])[0].shape == (1, 5)
    assert logits.identity() != features.identity()
    with pytest.raises(InputError, match="output is 'labels'"):
        TaggerFeatures(panns, "labels")


def test_sound_of_any_length_and_rate_is_heard(panns: Panns):
    features = TaggerFeatures(panns)
    for seconds, rate in ((0.05, 16000), (0.5, 44100), (12.0, 16000)):
        assert features.features(sounding(noise(seconds, rate)[None], rate), [0])[0].isfinite().all()
    at_16k, at_32k = (features.features(sounding(tone(440, 1.0, rate)[None], rate), [0])[0] for rate in (16000, 32000))
    torch.testing.assert_close(at_16k, at_32k, atol=0.05, rtol=0.05)


def divergence(real, generated):
    return float(class_divergence(real[None], generated[None]))


def test_kl_by_hand():
    real, generated = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert divergence(real, generated) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
    # the other way round it is another number
    assert divergence(generated, real) == pytest.approx(0.25 * np.log(0.5) + 0.75 * np.log(1.5))
    assert divergence(real + 3, real) == pytest.approx(0)


def test_kl_is_0_for_the_same_sound_and_grows_with_the_difference(panns: Panns):
    real = torch.stack([tone(440, 1.0, 16000)] * 3)
    generated = torch.stack([real[0], real[0] + noise(1.0, 16000, level=0.02), noise(1.0, 16000, level=0.5)])
    scorer = ClassDivergence(panns)
    generation = sounding(generated, 16000, real)
    same, near, far = (scores.values["kl"] for scores in scorer.score(generation, [0, 1, 2]))
    assert same == 0 and 0 < near < far
    # of the real sound's classes relative to the generated one's, not the other way round
    (_, logits_real), (_, logits_generated) = panns(real[2]), panns(generated[2])
    assert far == pytest.approx(divergence(logits_real, logits_generated), rel=1e-3)
    assert far != pytest.approx(divergence(logits_generated, logits_real), rel=1e-2)
    muted = replace(generation, reference=replace(generation.reference, mute=torch.tensor([False, False, True])))
    assert [scores.problem for scores in scorer.score(muted, [1, 2])] == [None, "mute"]
    assert scorer.higher_is_better == {"kl": False} and scorer.identity() == panns.identity()


def test_missing_and_wrong_files(tmp_path: Path):
    with pytest.raises(InputError, match=r"'none.pth' does not exist; download Cnn14_16k_mAP=0.438.pth.*CC-BY"):
        Panns("none.pth")
    torch.save({"model": {"fc1.weight": torch.zeros(2, 2)}}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"does not fit this Cnn14.*missing"):
        Panns(str(tmp_path / "other.pth"))
    with pytest.raises(InputError, match="sha256 asks for"):
        Panns(str(tmp_path / "other.pth"), sha256="0" * 64)
