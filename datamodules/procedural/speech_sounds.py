"""Voices that speak syllables: each syllable has a spectrum of its own, each speaker a pitch and formants.

Times are in seconds from the clip's start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.procedural.sounds import NOISE_FLOOR

CONSONANTS = "bmtk"
VOWELS = "aioe"
MIN_SYLLABLES, MAX_SYLLABLES = 3, 6
# Two syllables begin at least this far apart, so that the mouth nearly closes in between.
MIN_DISTANCE_S = 0.25
FIRST_S = 0.12
TAIL_S = 0.3

_ATTACK_S = 0.002
_RELEASE_S = 0.04
_PITCH_HZ = (95.0, 260.0)
_FORMANT_SCALE = (0.85, 1.2)
_GOLDEN = 0.618034  # spreads any number of formant scales evenly

_FORMANTS = {"a": (760, 1200, 2500), "i": (300, 2250, 3000), "o": (460, 820, 2400), "e": (520, 1850, 2550)}
_FORMANT_GAINS = np.array([1.0, 0.6, 0.3])
_BANDWIDTHS = np.array([90.0, 130.0, 200.0])
# Lower and upper end in Hz and decay in seconds of the bursts; an m is a hum instead.
_BURSTS = {"b": (100.0, 500.0, 0.010), "t": (3200.0, 7000.0, 0.008), "k": (1200.0, 2400.0, 0.010)}
_BURST_S = 0.03
_VOWEL_DELAY_S = 0.012
_HUM_HZ = 600.0


@dataclass(frozen=True)
class Syllable:
    """A consonant and a vowel.

    Attributes:
        time_s: the onset.
        consonant: one of ``CONSONANTS``.
        vowel: one of ``VOWELS``.
        hold_s: how long it stays at full loudness.
        level: amplitude, 0 to 1.
    """

    time_s: float
    consonant: str
    vowel: str
    hold_s: float
    level: float

    @property
    def text(self) -> str:
        """How it is written."""
        return self.consonant + self.vowel


@dataclass(frozen=True)
class Voice:
    """What all utterances of a speaker share.

    Attributes:
        pitch_hz: the fundamental.
        formant_scale: factor on all resonances: above 1 for a short vocal tract.
    """

    pitch_hz: float
    formant_scale: float


def voice_of(speaker: int, num_speakers: int) -> Voice:
    """The speaker's voice: pitches evenly spaced on a logarithmic scale, formants in another order."""
    low, high = _PITCH_HZ
    pitch = low * (high / low) ** (speaker / max(1, num_speakers - 1))
    small, large = _FORMANT_SCALE
    return Voice(pitch, small + (large - small) * (speaker * _GOLDEN % 1.0))


def most_syllables(duration_s: float) -> int:
    """How many syllables a clip has room for."""
    return min(MAX_SYLLABLES, 1 + int((duration_s - FIRST_S - TAIL_S) / MIN_DISTANCE_S + 1e-9))


def draw_utterance(duration_s: float, rng: np.random.Generator) -> list[Syllable]:
    """Three to six syllables (as far as there is room) at irregular times."""
    count = int(rng.integers(MIN_SYLLABLES, most_syllables(duration_s) + 1))
    spare_s = duration_s - FIRST_S - TAIL_S - (count - 1) * MIN_DISTANCE_S
    # sorted times in the spare room, each pushed on by the distance: never closer than that
    times = FIRST_S + np.sort(rng.uniform(0, spare_s, count)) + np.arange(count) * MIN_DISTANCE_S
    return [
        Syllable(
            time_s=float(time_s),
            consonant=CONSONANTS[rng.integers(len(CONSONANTS))],
            vowel=VOWELS[rng.integers(len(VOWELS))],
            hold_s=float(rng.uniform(0.05, 0.1)),
            level=float(rng.uniform(0.75, 1.0)),
        )
        for time_s in times
    ]


def transcript(syllables: Sequence[Syllable]) -> str:
    """The utterance in letters."""
    return " ".join(syllable.text for syllable in syllables)


def loudness(times: np.ndarray, syllables: Sequence[Syllable]) -> np.ndarray:
    """Amplitude of the voice at ``times`` (any shape), 0 to 1: what is heard, and how far the mouth is open."""
    levels = np.zeros(times.shape)
    for syllable in syllables:
        levels = np.maximum(levels, syllable.level * _shape(times - syllable.time_s, syllable.hold_s))
    return levels


def render_speech(
    syllables: Sequence[Syllable], voice: Voice, num_samples: int, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """The sound of an utterance: float32 ``[num_samples]`` in [-1, 1]."""
    track = NOISE_FLOOR * rng.standard_normal(num_samples)
    for syllable in syllables:
        first = int(np.ceil(syllable.time_s * sample_rate))
        # eight time constants, -69 dB
        last = min(num_samples, first + int((syllable.hold_s + 8 * _RELEASE_S) * sample_rate))
        # time since the exact onset: the attack is right below a sample
        since = np.arange(first, last) / sample_rate - syllable.time_s
        wave = _vowel(since, syllable, voice, sample_rate, rng) + _consonant(since, syllable, voice, sample_rate, rng)
        track[first:last] += 0.8 * syllable.level * _shape(since, syllable.hold_s) * wave / np.abs(wave).max()
    return np.clip(track, -1, 1).astype(np.float32)


def render_ambience(num_samples: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """The hum and hiss of a place where nothing happens, about -36 dBFS: float32 ``[num_samples]``."""
    low, high = _noise(num_samples, sample_rate, 60, 300, rng), _noise(num_samples, sample_rate, 300, 3000, rng)
    mixed = rng.uniform(0.5, 1.0) * low + rng.uniform(0.2, 0.5) * high
    result: np.ndarray = (rng.uniform(0.012, 0.02) * mixed / mixed.std()).astype(np.float32)
    return result


def _shape(since: np.ndarray, hold_s: float) -> np.ndarray:
    """Loudness of one syllable over the time since its onset: up at once, held, and gone."""
    rise = np.clip(since / _ATTACK_S, 0, 1)
    return rise * np.exp(-np.maximum(since - hold_s, 0) / _RELEASE_S)


def _vowel(
    since: np.ndarray, syllable: Syllable, voice: Voice, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """A train of pulses through the speaker's formants of the vowel, with a peak of 1."""
    pitch = voice.pitch_hz * rng.uniform(0.97, 1.03)
    # no harmonic above the Nyquist frequency, or of more than 5 kHz
    harmonics = pitch * np.arange(1, 1 + int(min(5000, 0.45 * sample_rate) / pitch))
    formants = voice.formant_scale * np.array(_FORMANTS[syllable.vowel], np.float64)
    gains = (_FORMANT_GAINS / (1 + ((harmonics[:, None] - formants) / _BANDWIDTHS) ** 2)).sum(axis=1) + 0.02
    angles = (2 * np.pi * harmonics[:, None] * (since - _VOWEL_DELAY_S)).astype(np.float32)
    wave = gains.astype(np.float32) @ np.cos(angles)
    result: np.ndarray = np.clip((since - _VOWEL_DELAY_S) / _ATTACK_S + 1, 0, 1) * wave / np.abs(wave).max()
    return result


def _consonant(
    since: np.ndarray, syllable: Syllable, voice: Voice, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """What a syllable begins with, with a peak of 1: a burst of noise, or the hum of an m."""
    burst = np.zeros(len(since))
    length = min(len(since), int(_BURST_S * sample_rate))
    early = since[:length]
    if syllable.consonant == "m":
        harmonics = voice.pitch_hz * np.arange(1, 1 + max(1, int(_HUM_HZ / voice.pitch_hz)))
        burst[:length] = np.sin(2 * np.pi * harmonics[:, None] * early).sum(axis=0) * (1 - early / _BURST_S)
    else:
        low, high, decay_s = _BURSTS[syllable.consonant]
        scale = voice.formant_scale
        noise = _noise(length, sample_rate, low * scale, min(high * scale, 0.45 * sample_rate), rng)
        burst[:length] = noise * np.exp(-early / decay_s)
    result: np.ndarray = burst / max(1e-9, np.abs(burst).max())
    return result


def _noise(length: int, sample_rate: int, low_hz: float, high_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Noise between two frequencies."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequencies = np.fft.rfftfreq(length, 1 / sample_rate)
    return np.fft.irfft(spectrum * ((frequencies >= low_hz) & (frequencies <= high_hz)), length)
