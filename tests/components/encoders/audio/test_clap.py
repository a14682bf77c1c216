"""CLAP's audio tower against the library, its last grid laid out in time."""

from pathlib import Path

import pytest
import torch
from transformers import ClapFeatureExtractor, ClapModel

from components.encoders.audio.clap import ClapAudioEncoder
from components.errors import InputError
from tests.public_folders.audio_models import write_clap

RATE = 48000


@pytest.fixture(scope="module", params=[False, True], ids=["unfused", "fused"])
def folder(request, tmp_path_factory) -> Path:
    return write_clap(tmp_path_factory.mktemp("clap"), request.param)


def noise(seconds: float, batch: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(batch, round(seconds * RATE), generator=torch.Generator().manual_seed(0))


def test_tokens_are_the_librarys(folder: Path):
    sounds = noise(3.0, batch=2)
    encoder = ClapAudioEncoder(str(folder))
    fed = ClapFeatureExtractor.from_pretrained(folder)(list(sounds.numpy()), sampling_rate=RATE, return_tensors="pt")
    torch.testing.assert_close(encoder.log_mel(sounds), fed.input_features[:, 0].float(), atol=2e-3, rtol=0)
    fed["is_longer"] = torch.zeros(2, 1, dtype=torch.bool)  # the front end marks one clip at random where none is
    with torch.no_grad():
        grid = ClapModel.from_pretrained(folder).audio_model.eval()(**fed).last_hidden_state
    assert grid.shape == (2, 64, 2, 32)
    heard = encoder(sounds, RATE)
    torch.testing.assert_close(heard.tokens, grid.mean(dim=2).mT[:, :10], atol=1e-3, rtol=0)
    assert encoder.dim == 64 and heard.rate_hz == pytest.approx(3.196875)
    assert heard.first_center_s == pytest.approx(15.5 * 1000 / 1023 / 100)
    stacked = ClapAudioEncoder(str(folder), "stack")
    assert stacked.dim == 128 and stacked(sounds, RATE).tokens.shape == (2, 10, 128)


@pytest.mark.parametrize("token", [4, 11, 18, 27])
def test_a_burst_changes_the_token_around_it_most(folder: Path, token: int):
    encoder = ClapAudioEncoder(str(folder))
    quiet = 0.001 * noise(10.0)
    before = encoder(quiet, RATE)
    time_s = float(before.centers_s()[token])
    loud = quiet.clone()
    loud[0, round((time_s - 0.1) * RATE) : round((time_s + 0.1) * RATE)] *= 300
    change = (encoder(loud, RATE).tokens - before.tokens)[0].norm(dim=-1)
    assert int(change.argmax()) == token and before.tokens.shape[1] == 32


def test_public_size_and_refusals(folder: Path):
    with torch.device("meta"):
        encoder = ClapAudioEncoder()
    assert encoder.dim == 768 and sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(27.5, abs=0.5)
    with pytest.raises(InputError, match="takes 48000 Hz but got audio at 16000 Hz"):
        ClapAudioEncoder(str(folder))(noise(1.0), 16000)
    with pytest.raises(InputError, match="hears at most 10 s"):
        ClapAudioEncoder(str(folder))(noise(10.5), RATE)
