"""What librosa finds in synthetic tracks, kept as numbers: its compiler ends the process on some machines.

Where librosa is installed (``pip install librosa==0.11.0``), this writes them anew::

    python -m tests.golden_librosa.record
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

RATE = 22_050
HOPS = (256, 512)
MEL_BANKS = ((400, 40, 16000), (321, 120, 16000), (256, 10, 1600))
"""Length of the transform, filters, sample rate."""
FILE = Path(__file__).parent / "numbers.safetensors"


def numbers() -> dict[str, torch.Tensor]:
    return load_file(FILE)


def bursts(times, num_samples=RATE * 2, rate=RATE, seed=0, level=0.5, decay_s=0.02) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    track = np.zeros(num_samples)
    for time in times:
        start = round(time * rate)
        since = np.arange(num_samples - start) / rate
        track[start:] += level * rng.uniform(-1, 1, len(since)) * np.exp(-since / decay_s)
    return torch.from_numpy(track.astype(np.float32))


def signals(count: int = 16) -> Iterator[np.ndarray]:
    """Bursts, bursts over noise, noise, gated tones, rough noise: what a detector may meet."""
    rng = np.random.default_rng(3)
    for index in range(count):
        samples = int(rng.integers(3_000, 50_000))
        seconds = np.arange(samples) / RATE
        track = np.zeros(samples)
        if index % 4 < 2:
            track += bursts(np.sort(rng.uniform(0, samples / RATE, 6)), samples, seed=index).numpy()
        if index % 4 in (1, 2):
            track += 10 ** rng.uniform(-4, -1) * rng.standard_normal(samples)
        if index % 4 == 3:
            track += 0.4 * np.sin(2 * np.pi * rng.uniform(100, 4000) * seconds) * (np.sin(20 * seconds) > 0)
        yield track.astype(np.float32)


def tracks_at_16_khz() -> torch.Tensor:
    return torch.stack([bursts([0.2 + 0.03 * k, 0.8, 1.3 + 0.01 * k], 32_000, 16_000, seed=k) for k in range(12)])


def record() -> None:
    import librosa

    found = {}
    for hop in HOPS:
        for index, track in enumerate(signals()):
            envelope = librosa.onset.onset_strength(y=track, sr=RATE, hop_length=hop)
            found[f"envelope.{hop}.{index}"] = torch.from_numpy(envelope)
            frames = librosa.onset.onset_detect(onset_envelope=envelope, sr=RATE, hop_length=hop)
            found[f"frames.{hop}.{index}"] = torch.from_numpy(frames)
    for index, track in enumerate(librosa.resample(tracks_at_16_khz().numpy(), orig_sr=16_000, target_sr=RATE)):
        times = librosa.onset.onset_detect(y=track, sr=RATE, units="time")
        found[f"resampled.{index}"] = torch.from_numpy(times)
    for n_fft, num_mels, rate in MEL_BANKS:
        bank = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=num_mels)
        found[f"filters.{n_fft}.{num_mels}.{rate}"] = torch.from_numpy(bank)
    save_file({name: value.contiguous() for name, value in found.items()}, FILE)


if __name__ == "__main__":
    record()
