"""HuBERT, WavLM and wav2vec 2.0: the library's own features, at the right times, from public folders."""

from pathlib import Path

import pytest
import torch
import transformers

from components.encoders.audio.speech_models import PUBLIC, SpeechEncoder, receptive_field
from components.errors import InputError
from components.weights.identity import identity_of, sha256_of
from tests.public_folders.audio_models import write_speech_model, write_whisper

RATE = 16000
KINDS = ("Hubert", "WavLM", "Wav2Vec2")


@pytest.fixture(scope="module", params=[(kind, large) for kind in KINDS for large in (False, True)])
def folder(request, tmp_path_factory) -> tuple[Path, str, bool]:
    kind, large = request.param
    return write_speech_model(tmp_path_factory.mktemp(kind), kind, large), kind, large


def noise(seconds: float = 1.0, batch: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(batch, round(seconds * RATE), generator=torch.Generator().manual_seed(0))


def test_tokens_are_the_librarys(folder):
    path, kind, large = folder
    encoder = SpeechEncoder(str(path))
    model = getattr(transformers, f"{kind}Model").from_pretrained(path).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(path)
    assert extractor.do_normalize is large is encoder.normalize
    sounds = noise(2.0, batch=2) + 0.05
    fed = extractor(list(sounds.numpy()), sampling_rate=RATE, return_tensors="pt").input_values
    with torch.no_grad():
        expected = model(fed).last_hidden_state
    heard = encoder(sounds, RATE)
    torch.testing.assert_close(heard.tokens, expected, atol=1e-4, rtol=0)
    assert heard.tokens.shape == (2, 99, 32) and encoder.dim == 32 and heard.mask.all()
    assert (heard.rate_hz, heard.first_center_s) == (50.0, 0.0125)
    identity = identity_of(encoder)
    assert (identity.name, identity.sha256) == (str(path), sha256_of(path / "model.safetensors"))


@pytest.mark.parametrize("times_s", [(0.4, 1.1), (0.313, 0.913)])
def test_moving_a_click_changes_the_tokens_around_it_most(folder, times_s: tuple[float, float]):
    """Moved, not added: the base models' group norm hears how loud the whole clip is."""
    encoder = SpeechEncoder(str(folder[0]), normalize=False)
    clips = (noise(1.5) * 0.1).repeat(2, 1)
    for clip, time_s in zip(clips, times_s, strict=True):
        clip[round(time_s * RATE)] += 3.0
    heard = encoder(clips, RATE)
    change = (heard.tokens[0] - heard.tokens[1]).norm(dim=-1)
    for time_s in times_s:
        distance = (heard.centers_s() - time_s).abs()
        near = change.where(distance < 0.3, torch.zeros(()))
        assert float(distance[near.argmax()]) <= float(distance.min()) + 0.021


def test_evaluation_mode_for_good(folder):
    encoder = SpeechEncoder(str(folder[0]))
    torch.nn.ModuleList([encoder]).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert torch.equal(encoder(noise(), RATE).tokens, encoder(noise(), RATE).tokens)


def test_normalize_can_be_chosen(folder):
    path, _, _ = folder
    first, second = (SpeechEncoder(str(path), normalize=choice)(noise(), RATE).tokens for choice in (False, True))
    stored = SpeechEncoder(str(path))
    torch.testing.assert_close(stored(noise(), RATE).tokens, second if stored.normalize else first, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("facebook/hubert-base-ls960", 94.37),
        ("facebook/hubert-large-ls960-ft", 315.44),
        ("microsoft/wavlm-large", 315.45),
    ],
)
def test_public_models_are_known_without_files(name: str, millions: float):
    with torch.device("meta"):
        encoder = SpeechEncoder(name)
    assert encoder.dim == PUBLIC[name].get("hidden_size", 768) and encoder.rate_hz == 50.0
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.02)


def test_receptive_field():
    assert receptive_field((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)) == (400, 320)


def test_refusals(folder, tmp_path):
    encoder = SpeechEncoder(str(folder[0]))
    with pytest.raises(InputError, match="takes 16000 Hz but got audio at 22050 Hz"):
        encoder(noise(), 22050)
    with pytest.raises(InputError, match=r"at least 0\.025 s"):
        encoder(torch.zeros(1, 399), RATE)
    with pytest.raises(InputError, match="model of type 'whisper'"):
        SpeechEncoder(str(write_whisper(tmp_path)))
