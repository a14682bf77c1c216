"""Log-mel tokens: when they hear a click, what they say of silence, and which rates they refuse."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.encoders.audio.log_mel import LogMelEncoder
from components.errors import InputError

RATE = 16000


def click(at: int, length: int = RATE) -> torch.Tensor:
    sound = torch.zeros(1, length)
    sound[0, at] = 1.0
    return sound


@settings(deadline=None, max_examples=40)
@given(sample=st.integers(0, RATE - 1), hop=st.sampled_from([160, 200, 320, 640]))
def test_a_click_is_loudest_in_the_token_nearest_to_it(sample: int, hop: int):
    encoder = LogMelEncoder(hop=hop, num_mels=8, window=max(400, 2 * hop))
    features = encoder(click(sample), RATE)
    level = features.tokens[0, :, :8].mean(dim=-1)
    distance = (features.centers_s() - sample / RATE).abs()
    loudest = int(level.argmax())
    assert float(distance[loudest]) <= float(distance.min()) + 0.5 / RATE  # a tie may go either way


@pytest.mark.parametrize("samples", [1, 319, 320, 16000, 32668])
def test_one_token_per_hop_from_sample_zero_on(samples: int):
    features = LogMelEncoder()(torch.zeros(2, samples), RATE)
    assert features.tokens.shape == (2, 1 + samples // 320, 64) == (*features.mask.shape, LogMelEncoder().dim)
    assert features.rate_hz == 50.0 and features.first_center_s == 0.0
    assert features.mask.all() and features.tokens.isfinite().all()


def test_the_second_half_is_the_rise_since_the_token_before():
    features = LogMelEncoder(num_mels=8)(torch.randn(1, RATE, generator=torch.Generator().manual_seed(0)), RATE)
    level, rise = features.tokens[0].split(8, dim=-1)
    torch.testing.assert_close(rise[1:], (level[1:] - level[:-1]).clamp(min=0))
    assert torch.equal(rise[0], torch.zeros(8))


def test_silence_is_constant_and_loudness_is_monotone():
    encoder = LogMelEncoder()
    silent = encoder(torch.zeros(1, RATE), RATE).tokens
    assert torch.equal(silent, silent[:, :1].expand_as(silent)) and silent.isfinite().all()
    tone = torch.sin(torch.arange(RATE) * 2 * torch.pi * 440 / RATE)[None]
    means = [float(encoder(gain * tone, RATE).tokens[..., :32].mean()) for gain in (0.0, 0.01, 0.1, 1.0)]
    assert means == sorted(means) and means[-1] > means[0] + 0.2


def test_the_loudest_band_follows_the_pitch():
    encoder = LogMelEncoder()
    seconds = torch.arange(RATE) / RATE
    bands = [
        int(encoder(torch.sin(2 * torch.pi * hz * seconds)[None], RATE).tokens[0, 25, :32].argmax())
        for hz in (150, 400, 1000, 2500, 6000)
    ]
    assert bands == sorted(set(bands))


def test_later_sound_does_not_change_earlier_tokens():
    sound = torch.randn(1, RATE, generator=torch.Generator().manual_seed(1))
    changed = sound.clone()
    changed[:, 8000:] = 0
    encoder = LogMelEncoder()
    before, after = (encoder(x, RATE).tokens for x in (sound, changed))
    clear = (8000 - encoder.window // 2) // encoder.hop  # tokens whose window ends before the change
    assert torch.equal(before[:, :clear], after[:, :clear]) and not torch.equal(before[:, 25:], after[:, 25:])


def test_autocast_does_not_touch_the_spectrum():
    sound = torch.randn(1, RATE, generator=torch.Generator().manual_seed(2))
    encoder = LogMelEncoder()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = encoder(sound, RATE).tokens
    assert tokens.dtype == torch.float32 and torch.equal(tokens, encoder(sound, RATE).tokens)


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_another_sample_rate_is_refused(rate: int):
    with pytest.raises(InputError, match=rf"built for 16000 Hz but got audio at {rate} Hz"):
        LogMelEncoder()(torch.zeros(1, rate), rate)


def test_it_has_no_weights_to_save():
    encoder = LogMelEncoder()
    assert not list(encoder.parameters()) and not encoder.state_dict()
