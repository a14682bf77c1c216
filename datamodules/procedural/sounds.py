"""The sounds of the procedural scenes: sharp attacks, short decays, a faint noise floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from datamodules.procedural.scenes import Event

# Low enough to vanish below the 80 dB range of onset detectors: a louder steady noise is itself an "onset" where a
# track begins.
NOISE_FLOOR = 10 ** (-80 / 20)
_ATTACK_S = 0.002
_LENGTH_S = 0.4

Voice = Callable[[np.ndarray, Event], np.ndarray]


def render_sound(
    kind: str, events: Sequence[Event], num_samples: int, sample_rate: int, size: float, rng: np.random.Generator
) -> np.ndarray:
    """The sound track of a scene: float32 ``[num_samples]`` in [-1, 1].

    Args:
        kind: a key of ``VOICES``.
        events: when something is heard.
        num_samples: length of the track.
        sample_rate: samples per second.
        size: 0 (small, high) to 1 (large, low).
        rng: draws the voice and the loudness of each event.
    """
    voice = VOICES[kind](size, sample_rate, rng)
    track = np.zeros(num_samples, np.float64)
    for event in events:
        # the first sample after the onset, which lies between two samples
        first = int(np.ceil(event.time_s * sample_rate))
        last = min(num_samples, first + int(_LENGTH_S * sample_rate))
        if first >= last:
            continue
        # Time since the exact onset: the attack is right below a sample.
        since = np.arange(first, last) / sample_rate - event.time_s
        sound = voice(since, event) * np.minimum(since / _ATTACK_S, 1)
        track[first:last] += rng.uniform(0.8, 1.0) * sound / max(1e-9, np.abs(sound).max())
    track *= rng.uniform(0.6, 0.85)
    track += NOISE_FLOOR * rng.standard_normal(num_samples)
    return np.clip(track, -1, 1).astype(np.float32)


def _thump(size: float, sample_rate: int, rng: np.random.Generator) -> Voice:
    """A falling low tone with a click: a ball on the floor."""
    low = (150 - 60 * size) * rng.uniform(0.9, 1.1)
    click = rng.standard_normal(int(0.02 * sample_rate) + 1)

    def sound(since: np.ndarray, event: Event) -> np.ndarray:
        del event
        phase = 2 * np.pi * (low * since + low * 0.03 * (1 - np.exp(-since / 0.03)))
        out = np.sin(phase) * np.exp(-since / 0.06)
        short = min(len(click), len(since))
        out[:short] += 0.45 * click[:short] * np.exp(-since[:short] / 0.004)
        return out

    return sound


def _bell(size: float, sample_rate: int, rng: np.random.Generator) -> Voice:
    """Partials of a free bar (1 : 2.76 : 5.40) that die out the faster the higher they are."""
    fundamental = (880 - 380 * size) * rng.uniform(0.92, 1.08)
    partials = [(1.0, 1.0, 0.075), (2.756, 0.6, 0.05), (5.404, 0.35, 0.03)]
    # partials above the Nyquist frequency would fold back
    audible = [(r, a, tau) for r, a, tau in partials if fundamental * r < 0.45 * sample_rate]

    def sound(since: np.ndarray, event: Event) -> np.ndarray:
        del event
        tones = [a * np.sin(2 * np.pi * fundamental * r * since) * np.exp(-since / tau) for r, a, tau in audible]
        result: np.ndarray = np.sum(tones, axis=0)
        return result

    return sound


# Formant frequencies in Hz of the vowels a, o, e and the gains of the three formants.
_FORMANTS = np.array([[730, 1090, 2440], [570, 840, 2410], [530, 1840, 2480]], np.float64)
_FORMANT_GAINS = np.array([1.0, 0.6, 0.25])
_BANDWIDTHS = np.array([90.0, 120.0, 180.0])


def _vowels(size: float, sample_rate: int, rng: np.random.Generator) -> Voice:
    """Bursts of a pulse train through the formants of a vowel; pitch and formants belong to the speaker."""
    pitch = (230 - 120 * size) * rng.uniform(0.9, 1.1)
    formants = _FORMANTS * (1.15 - 0.2 * size) * rng.uniform(0.96, 1.04)
    harmonics = pitch * np.arange(1, 1 + int(min(4500, 0.45 * sample_rate) / pitch))

    def sound(since: np.ndarray, event: Event) -> np.ndarray:
        detune = (harmonics[:, None] - formants[event.vowel]) / _BANDWIDTHS
        gains = (_FORMANT_GAINS / (1 + detune**2)).sum(axis=1) + 0.02
        # The first pulse comes when the attack is over, not a pitch period later.
        angles = (2 * np.pi * harmonics[:, None] * (since - _ATTACK_S)).astype(np.float32)
        wave = gains.astype(np.float32) @ np.cos(angles)
        result: np.ndarray = wave * np.exp(-since / 0.065)
        return result

    return sound


VOICES: Mapping[str, Callable[[float, int, np.random.Generator], Voice]] = {
    "bouncing_ball": _thump,
    "striking_mallet": _bell,
    "speaking_face": _vowels,
}
