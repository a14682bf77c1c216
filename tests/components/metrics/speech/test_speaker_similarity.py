"""Whose voice it is: windows, the front end, the same and other voices, references. Numbers: tests/golden."""

import importlib.util
from pathlib import Path

import pytest
import torch

from components.errors import InputError
from components.metrics.speech.slaney_mel import slaney_mel_filters
from components.metrics.speech.speaker_similarity import SpeakerSimilarity
from components.metrics.speech.voice_encoder import VoiceEncoder, window_starts
from tests.components.metrics.generations import noise, sounding, tone
from tests.golden_librosa.record import MEL_BANKS, numbers


def write_encoder(file: Path, seed: int = 0) -> Path:
    """A narrow encoder as Resemblyzer's file holds it: beside the optimiser, with two numbers of its loss."""
    torch.manual_seed(seed)
    net = VoiceEncoder(hidden=24, dim=24)
    for name, value in net.named_parameters():
        torch.nn.init.normal_(value, std=1.0 if "linear" in name else 0.5)
    state = {**net.state_dict(), "similarity_weight": torch.ones(1), "similarity_bias": torch.zeros(1)}
    torch.save({"step": 9, "model_state": state, "optimizer_state": {"lr": 0.1}}, file)
    return file


@pytest.fixture(scope="module")
def scorer(tmp_path_factory) -> SpeakerSimilarity:
    return SpeakerSimilarity(str(write_encoder(tmp_path_factory.mktemp("voice") / "pretrained.pt")))


@pytest.mark.parametrize(("n_fft", "num_mels", "rate"), MEL_BANKS)
def test_filters_are_librosas(n_fft: int, num_mels: int, rate: int):
    wanted = numbers()[f"filters.{n_fft}.{num_mels}.{rate}"].T
    torch.testing.assert_close(slaney_mel_filters(rate, n_fft, num_mels), wanted, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize(("samples", "starts"), [(100, [0]), (25600, [0]), (32000, [0]), (32000 + 160 * 5, [0, 77])])
def test_windows_begin_every_0_77_s_and_the_last_is_three_quarters_full(samples: int, starts: list[int]):
    # from frame 77 on, 0.75 * 160 frames are there with 197 frames: 31520 samples
    assert window_starts(samples) == ([0, 77] if samples >= 31520 else starts)


def test_public_keys_and_size():
    with torch.device("meta"):
        encoder = SpeakerSimilarity("pretrained.pt").encoder
    shapes = {key: tuple(value.shape) for key, value in encoder.state_dict().items()}
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    assert set(shapes) == {f"lstm.{kind}_l{layer}" for kind in kinds for layer in range(3)} | {
        "linear.weight",
        "linear.bias",
    }
    assert shapes["lstm.weight_ih_l0"] == (1024, 40) and shapes["linear.weight"] == (256, 256)


def test_the_same_voice_is_1_and_another_less(scorer: SpeakerSimilarity):
    voice = tone(220, 2.0, 16000) + noise(2.0, 16000, level=0.02)
    generated = torch.stack([voice, tone(550, 2.0, 16000), noise(2.0, 16000, 3, 0.2)])
    # the references are followed by the zeros that fill up their row
    reference = torch.nn.functional.pad(voice, (0, 48000)).expand(3, -1)
    clip = {"reference_audio": reference, "reference_lengths": torch.full((3,), 32000)}
    scores = scorer.score(sounding(generated, 16000, **clip), [0, 1, 2])
    same, *others = (score.values["speaker_similarity"] for score in scores)
    assert same == pytest.approx(1, abs=1e-6) and all(0 <= other < 0.99 for other in others)
    alone = {"reference_audio": reference[2:], "reference_lengths": torch.tensor([32000])}
    assert scorer.score(sounding(generated[2:], 16000, **alone), [0])[0] == scores[2]


def test_quiet_voices_are_made_equally_loud(scorer: SpeakerSimilarity):
    voice = tone(220, 2.0, 16000, 0.02) + noise(2.0, 16000, level=0.002)  # -37 dBFS, and below -30 it is raised
    clip = {"reference_audio": voice[None] / 2, "reference_lengths": torch.tensor([32000])}
    (score,) = scorer.score(sounding(voice[None], 16000, **clip), [0])
    assert score.values["speaker_similarity"] == pytest.approx(1, abs=1e-5)
    loud = {"reference_audio": voice[None] * 20, "reference_lengths": torch.tensor([32000])}
    (score,) = scorer.score(sounding(voice[None], 16000, **loud), [0])
    assert score.values["speaker_similarity"] < 0.999


def test_another_sample_rate_is_the_same_voice(scorer: SpeakerSimilarity):
    voice = tone(220, 2.0, 48000) + tone(1700, 2.0, 48000, 0.1)
    clip = {"reference_audio": voice[None], "reference_lengths": torch.tensor([96000])}
    (score,) = scorer.score(sounding(voice[None], 48000, **clip), [0])
    assert score.values["speaker_similarity"] == pytest.approx(1, abs=1e-6)


def test_problems(scorer: SpeakerSimilarity):
    sounds = torch.stack([noise(1.0, 16000), torch.zeros(16000), noise(1.0, 16000)])
    clip = {"reference_audio": noise(1.0, 16000).expand(3, -1), "reference_lengths": torch.tensor([0, 16000, 16000])}
    generation = sounding(sounds, 16000, **clip)
    assert [score.problem for score in scorer.score(generation, [0, 1, 2])] == ["no_reference", "silent", None]
    assert scorer.score(sounding(sounds, 16000), [0])[0].problem == "no_reference"


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match=r"voice encoder 'none.pt' does not exist; .*Resemblyzer"):
        SpeakerSimilarity("none.pt")
    torch.save({"model_state": {"linear.weight": torch.zeros(2, 2)}}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="does not fit this VoiceEncoder"):
        SpeakerSimilarity(str(tmp_path / "other.pt"))
    # the installed package's own file
    package = tmp_path / "resemblyzer"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('must not be imported: it asks for other packages')\n")
    write_encoder(package / "pretrained.pt")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    found = SpeakerSimilarity()
    assert found.identity() == SpeakerSimilarity(str(package / "pretrained.pt")).identity()


@pytest.mark.skipif(importlib.util.find_spec("resemblyzer") is not None, reason="Resemblyzer is installed")
def test_without_the_package():
    with pytest.raises(InputError, match=r"pip install --no-deps resemblyzer"):
        SpeakerSimilarity()
