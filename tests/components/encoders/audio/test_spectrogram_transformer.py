"""AST against the library, its patches laid out in time."""

import pytest
import torch
from transformers import ASTFeatureExtractor, ASTModel

from components.encoders.audio.spectrogram_transformer import SpectrogramTransformerEncoder
from components.errors import InputError
from tests.public_folders.audio_models import write_ast

RATE = 16000


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(write_ast(tmp_path_factory.mktemp("ast")))


def noise(seconds: float, batch: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(batch, round(seconds * RATE), generator=torch.Generator().manual_seed(0))


def test_tokens_are_the_librarys(folder: str):
    sounds = noise(2.0, batch=2)
    encoder = SpectrogramTransformerEncoder(folder)
    fed = ASTFeatureExtractor.from_pretrained(folder)(list(sounds.numpy()), sampling_rate=RATE, return_tensors="pt")
    torch.testing.assert_close(encoder.log_mel(sounds), fed.input_values, atol=1e-4, rtol=0)
    with torch.no_grad():
        patches = ASTModel.from_pretrained(folder)(**fed).last_hidden_state[:, 2:].reshape(2, 12, 101, 32)
    heard = encoder(sounds, RATE)
    torch.testing.assert_close(heard.tokens, patches.mean(dim=1)[:, :20], atol=1e-4, rtol=0)
    assert encoder.dim == 32 and (heard.rate_hz, heard.first_center_s) == pytest.approx((10.0, 0.0875))
    stacked = SpectrogramTransformerEncoder(folder, "stack")
    tokens = stacked(sounds, RATE).tokens
    assert tokens.shape == (2, 20, 12 * 32) and stacked.dim == 12 * 32
    torch.testing.assert_close(tokens.unflatten(2, (12, 32)), patches.transpose(1, 2)[:, :20], atol=1e-4, rtol=0)


@pytest.mark.parametrize("time_s", [0.31, 0.7875, 1.24])
def test_a_click_changes_the_token_around_it_most(folder: str, time_s: float):
    encoder = SpectrogramTransformerEncoder(folder)
    quiet = 0.01 * noise(2.0)
    loud = quiet.clone()
    loud[0, round(time_s * RATE)] += 1.0
    before = encoder(quiet, RATE)
    change = (encoder(loud, RATE).tokens - before.tokens)[0].norm(dim=-1)
    assert float((before.centers_s()[change.argmax()] - time_s).abs()) <= 0.0875  # half a patch and half a frame


def test_public_size_and_refusals(folder: str):
    with torch.device("meta"):
        encoder = SpectrogramTransformerEncoder()
    assert encoder.dim == 768 and sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(86.19, abs=0.02)
    with pytest.raises(InputError, match="frequency is 'max'"):
        SpectrogramTransformerEncoder(folder, "max")
    with pytest.raises(InputError, match=r"hears at most 10\.255 s but got 10\.3 s"):
        SpectrogramTransformerEncoder(folder)(noise(10.3), RATE)
