"""Whisper's encoder against the library, on its 30 s, cut back to the sound."""

import pytest
import torch
from transformers import WhisperFeatureExtractor, WhisperModel

from components.encoders.audio.whisper import WhisperAudioEncoder
from components.errors import InputError
from tests.public_folders.audio_models import write_speech_model, write_whisper

RATE = 16000


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(write_whisper(tmp_path_factory.mktemp("whisper")))


def noise(seconds: float, batch: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(batch, round(seconds * RATE), generator=torch.Generator().manual_seed(0))


def test_tokens_are_the_librarys(folder: str):
    sounds = noise(2.0, batch=2) * torch.tensor([[1.0], [0.01]])
    encoder = WhisperAudioEncoder(folder)
    fed = WhisperFeatureExtractor.from_pretrained(folder)(
        list(sounds.numpy()), sampling_rate=RATE, return_tensors="pt"
    ).input_features
    padded = torch.nn.functional.pad(sounds, (0, 28 * RATE))
    torch.testing.assert_close(encoder.log_mel(padded), fed, atol=1e-4, rtol=0)
    with torch.no_grad():
        expected = WhisperModel.from_pretrained(folder).encoder(fed).last_hidden_state[:, :100]
    heard = encoder(sounds, RATE)
    torch.testing.assert_close(heard.tokens, expected, atol=1e-4, rtol=0)
    assert encoder.dim == 32 and (heard.rate_hz, heard.first_center_s) == (50.0, 0.0) and heard.mask.all()
    assert not any("decoder" in name for name, _ in encoder.named_parameters())


@pytest.mark.parametrize(("samples", "tokens"), [(1, 1), (320, 1), (321, 2), (16000, 50)])
def test_tokens_over_padding_are_cut(folder: str, samples: int, tokens: int):
    assert WhisperAudioEncoder(folder)(torch.zeros(1, samples), RATE).tokens.shape[1] == tokens


def test_a_click_changes_the_token_around_it_most(folder: str):
    encoder = WhisperAudioEncoder(folder)
    quiet = noise(1.5)
    before = encoder(quiet, RATE)
    for time_s in (0.4, 0.913):
        loud = quiet.clone()
        loud[0, round(time_s * RATE)] += 3.0
        change = (encoder(loud, RATE).tokens - before.tokens)[0].norm(dim=-1)
        distance = (before.centers_s() - time_s).abs()
        assert float(distance[change.argmax()]) <= float(distance.min()) + 0.021


def test_public_sizes_and_refusals(folder: str, tmp_path):
    with torch.device("meta"):
        encoder = WhisperAudioEncoder("openai/whisper-large-v3")
    assert encoder.dim == 1280
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(637.0, abs=1)
    with pytest.raises(InputError, match=r"hears at most 30 s but got 31 s"):
        WhisperAudioEncoder(folder)(torch.zeros(1, 31 * RATE), RATE)
    with pytest.raises(InputError, match=r"lack .* tensors|does not load"):
        WhisperAudioEncoder(str(write_speech_model(tmp_path, "Hubert")))
