"""The two audio codecs that need no weights: what they keep exactly, and that sound events survive them."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from components.codecs.audio.log_mel import LogMelCodec
from components.codecs.audio.mdct import MDCTCodec
from components.codecs.latent_statistics import LatentStatistics
from components.contracts import AudioCodec
from components.errors import InputError
from components.metrics.cyclesync.matching import match_events
from components.metrics.cyclesync.onsets import OnsetDetector
from datamodules.procedural.scenes import Event
from datamodules.procedural.sounds import VOICES, render_sound

RATE = 16000


def noise(samples: int, clips: int = 2) -> torch.Tensor:
    return torch.rand(clips, samples, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def scenes() -> tuple[torch.Tensor, list[list[float]]]:
    """Four sounds of each kind and the times of their events."""
    rng, tracks, truth = np.random.default_rng(0), [], []
    for kind in VOICES:
        for _ in range(4):
            times = np.cumsum(rng.uniform(0.2, 0.6, 8)) + rng.uniform(0, 0.2)
            times = [float(time) for time in times if time < 1.85]
            events = [Event(time, int(rng.integers(3))) for time in times]
            tracks.append(render_sound(kind, events, 63 * 512, RATE, rng.uniform(), rng))
            truth.append(times)
    return torch.from_numpy(np.stack(tracks)), truth


def precision_and_recall(sound: torch.Tensor, truth: list[list[float]]) -> tuple[float, float]:
    found = OnsetDetector()(sound, RATE)
    hits = sum(len(match_events(a, b, 0.05)) for a, b in zip(found, truth, strict=True))
    return hits / max(1, sum(map(len, found))), hits / sum(map(len, truth))


@pytest.mark.parametrize("hop", [2, 64, 512])
@pytest.mark.parametrize("power", [1.0, 0.5])
def test_mdct_loses_nothing(hop: int, power: float):
    codec, sound = MDCTCodec(hop=hop, power=power, scale=3.0), noise(hop * 9)
    latents = codec.encode(sound)
    assert latents.shape == (2, hop, 9)
    torch.testing.assert_close(codec.decode(latents), sound, atol=1e-5, rtol=0)
    assert torch.equal(codec.encode(torch.nn.functional.pad(sound, (0, hop - 1))), latents), "a part of a block"


def test_mdct_is_orthonormal():
    codec = MDCTCodec(hop=16)
    matrix = codec.encode(torch.eye(16 * 5)).transpose(1, 2).flatten(1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(80), atol=1e-5, rtol=0)


def test_mdct_is_the_textbook_one_between_the_ends():
    """Princen and Bradley: sine window over two blocks, cosines shifted by half a block and half a sample.

    Theirs are odd about a block's start and even about its end; ours the other way round, which is time reversed.
    """
    hop, blocks = 8, 6
    sound = noise(hop * blocks, 1)
    n, k = torch.arange(2 * hop, dtype=torch.float64), torch.arange(hop, dtype=torch.float64)
    window = torch.sin(math.pi / (2 * hop) * (n + 0.5))
    basis = math.sqrt(2 / hop) * window * torch.cos(math.pi / hop * (n + 0.5 + hop / 2) * (k[:, None] + 0.5))
    # a frame reaches half a block beyond its own
    frames = sound[0].double().unfold(0, 2 * hop, hop // 2)[1::2]
    expected = frames @ basis.flip(1).T
    found = MDCTCodec(hop=hop).encode(sound)[0].T[1:-1].double()
    torch.testing.assert_close(found.abs(), expected[: len(found)].abs(), atol=1e-5, rtol=0)


def test_mdct_puts_a_tone_in_its_channel():
    codec, channel = MDCTCodec(hop=64), 20
    frequency = (channel + 0.5) / 64 * RATE / 2
    tone = 0.5 * torch.sin(2 * math.pi * frequency / RATE * torch.arange(64 * 12))[None]
    energy = codec.encode(tone)[0, :, 1:-1].square().mean(dim=1)
    assert energy.argmax() == channel
    assert energy[channel - 1 : channel + 2].sum() > 0.95 * energy.sum()


@pytest.mark.parametrize("options", [{}, {"num_mels": 20}, {"frames_per_latent": 1, "latent_hop": 256}])
def test_events_survive_log_mel(scenes: tuple[torch.Tensor, list[list[float]]], options: dict):
    sound, truth = scenes
    codec = LogMelCodec(**options)
    samples = sound.shape[1] // codec.latent_hop * codec.latent_hop
    latents = codec.encode(sound)
    assert latents.shape == (len(sound), codec.latent_channels, samples // codec.latent_hop)
    decoded = codec.decode(latents)
    assert decoded.shape == (len(sound), samples) and decoded.abs().max() <= 1
    assert min(precision_and_recall(decoded, truth)) > 0.98
    loudness = decoded.square().mean().sqrt() / sound.square().mean().sqrt()
    assert 0.7 < loudness < 1.2
    assert torch.equal(codec.decode(latents), decoded), "phases are always the same"
    assert torch.equal(codec.encode(sound), latents)


def test_noisy_latents_still_tell_when_things_sound(scenes: tuple[torch.Tensor, list[list[float]]]):
    sound, truth = scenes
    codec = LogMelCodec()
    latents = codec.encode(sound)
    assert abs(latents.mean()) < 0.7 and 0.7 < latents.std() < 1.3
    noisy = latents + 0.2 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    gated = precision_and_recall(codec.decode(noisy), truth)
    open_gate = precision_and_recall(LogMelCodec(gate_db=0.0).decode(noisy), truth)
    assert min(gated) > 0.95 and open_gate[0] < gated[0]


def test_more_rounds_agree_better_with_the_latents(scenes: tuple[torch.Tensor, list[list[float]]]):
    sound = scenes[0][::3]
    errors = []
    for iterations in (0, 2, 8):
        codec = LogMelCodec(iterations=iterations)
        latents = codec.encode(sound)
        errors.append((codec.encode(codec.decode(latents)) - latents).abs().mean().item())
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("codec", [LogMelCodec(), LogMelCodec(frames_per_latent=4, latent_hop=1024), MDCTCodec()])
def test_a_latent_stands_for_its_own_samples(codec: AudioCodec):
    sound = torch.zeros(1, codec.latent_hop * 12)
    for latent in (0, 5, 11):
        burst = sound.clone()
        start = codec.latent_hop * latent
        burst[:, start : start + codec.latent_hop] = noise(codec.latent_hop, 1)
        change = (codec.encode(burst) - codec.encode(sound)).abs().mean(dim=1)[0]
        assert change.argmax() == latent
    assert codec.latent_centers_s(12)[5].item() == pytest.approx(5.5 * codec.latent_hop / RATE)


@pytest.mark.parametrize("codec", [LogMelCodec(), MDCTCodec()])
def test_silence_stays_silent(codec: AudioCodec):
    silence = codec.silence(7)
    assert silence.shape == (codec.latent_channels, 7)
    assert codec.decode(silence[None]).abs().max() < 1e-6
    assert codec.encode(codec.decode(silence[None])).equal(silence[None])


def test_bad_settings_are_told():
    for message, build in {
        "hop is 7": lambda: MDCTCodec(hop=7),
        "power is 2": lambda: MDCTCodec(power=2),
        "latent_hop is 511": lambda: LogMelCodec(latent_hop=511),
        "window is 300": lambda: LogMelCodec(window=300),
    }.items():
        with pytest.raises(InputError, match=message):
            build()


def test_shapes_on_the_meta_device(tmp_path: Path):
    file = tmp_path / "statistics.json"
    LatentStatistics.of(LogMelCodec().encode(noise(512 * 20))).save(file)
    with torch.device("meta"):
        codecs = [MDCTCodec(), LogMelCodec(), LogMelCodec(statistics=file)]
    assert [codec.latent_channels for codec in codecs] == [512, 64, 64]
    assert codecs[0].latent_rate_hz == 31.25
