"""Sharp attacks, short decays, and onsets that librosa's way of detecting finds."""

import mir_eval
import numpy as np
import pytest
import torch

from components.media.resample import resample
from components.metrics.cyclesync.onsets import OnsetDetector
from datamodules.procedural.scenes import Event
from datamodules.procedural.sounds import VOICES, render_sound
from datamodules.procedural_clips import draw_events

RATE = 16000


@pytest.mark.parametrize("kind", list(VOICES))
@pytest.mark.parametrize("size", [0.0, 1.0])
def test_attack_and_decay(kind: str, size: float) -> None:
    sound = render_sound(kind, [Event(0.50003)], RATE, RATE, size, np.random.default_rng(0))
    first = int(0.50003 * RATE) + 1
    assert np.abs(sound[:first]).max() < 1e-3
    peak = np.abs(sound).max()
    assert 0.4 < peak <= 1
    assert np.abs(sound[first : first + int(0.006 * RATE)]).max() > 0.5 * peak
    assert np.abs(sound[first + int(0.3 * RATE) :]).max() < 0.03 * peak
    loud = np.abs(sound).reshape(-1, 160).max(axis=1) > peak / np.e
    assert 2 <= loud.sum() <= 12  # below 1/e after 20 to 120 ms


@pytest.mark.parametrize("kind", list(VOICES))
def test_a_detector_finds_every_onset_and_nothing_else(kind: str) -> None:
    found = true = matched = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        events = draw_events(4.0, rng)
        sound = render_sound(kind, events, 4 * RATE, RATE, rng.uniform(), rng)
        signal = resample(sound, RATE, 22050, 0.0, 4 * 22050)
        onsets = np.array(OnsetDetector()(torch.from_numpy(signal)[None], 22050)[0])
        truth = np.array([event.time_s for event in events])
        matched += len(mir_eval.util.match_events(truth, onsets, 0.05))
        found, true = found + len(onsets), true + len(truth)
    assert matched / true >= 0.97
    assert matched / found >= 0.97


@pytest.mark.parametrize("kind", list(VOICES))
def test_sounds_depend_on_the_generator_alone(kind: str) -> None:
    def make(seed: int) -> np.ndarray:
        return render_sound(kind, [Event(0.4, 1)], RATE, RATE, 0.3, np.random.default_rng(seed))

    assert np.array_equal(make(0), make(0))
    assert not np.array_equal(make(0), make(1))
    assert make(0).dtype == np.float32


def test_vowels_and_speakers_differ() -> None:
    def spectrum(vowel: int, size: float) -> np.ndarray:
        sound = render_sound("speaking_face", [Event(0.4, vowel)], RATE, RATE, size, np.random.default_rng(0))
        bands = np.abs(np.fft.rfft(sound[6400:9600])).reshape(-1)[:1600].reshape(40, 40).sum(axis=1)
        return bands / np.linalg.norm(bands)

    assert spectrum(0, 0.5) @ spectrum(2, 0.5) < 0.95
    assert spectrum(0, 0.0) @ spectrum(0, 1.0) < 0.97


def test_an_event_at_the_very_end_is_cut_off() -> None:
    sound = render_sound("striking_mallet", [Event(0.9), Event(1.5)], RATE, RATE, 0.5, np.random.default_rng(0))
    assert len(sound) == RATE
