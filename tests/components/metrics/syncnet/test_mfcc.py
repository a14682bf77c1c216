import numpy as np
import pytest
import scipy.fft
import torch

from components.metrics.syncnet.mfcc import mfcc, to_int16_scale


def by_the_book(wave):
    """The cepstra of one track frame by frame, in numpy and scipy."""
    wave = np.append(wave[0], wave[1:] - 0.97 * wave[:-1])
    count = 1 if len(wave) <= 400 else 1 + -(-(len(wave) - 400) // 160)
    wave = np.append(wave, np.zeros((count - 1) * 160 + 400 - len(wave)))
    mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 28)
    bins = np.floor(513 * 700 * (10 ** (mel / 2595) - 1) / 16000)
    rows = []
    for n in range(count):
        power = np.abs(np.fft.rfft(wave[n * 160 : n * 160 + 400], 512)) ** 2 / 512
        bands = []
        for j in range(26):
            total = 0.0
            for i in range(int(bins[j]), int(bins[j + 1])):
                total += power[i] * (i - bins[j]) / (bins[j + 1] - bins[j])
            for i in range(int(bins[j + 1]), int(bins[j + 2])):
                total += power[i] * (bins[j + 2] - i) / (bins[j + 2] - bins[j + 1])
            bands.append(total if total else np.finfo(float).eps)
        cepstra = scipy.fft.dct(np.log(bands), norm="ortho")[:13] * (1 + 11 * np.sin(np.pi * np.arange(13) / 22))
        cepstra[0] = np.log(power.sum() or np.finfo(float).eps)
        rows.append(cepstra)
    return np.array(rows)


@pytest.mark.parametrize("samples", [1, 399, 400, 401, 560, 561, 3210])
def test_any_length_by_the_book(samples):
    wave = np.random.default_rng(samples).integers(-20_000, 20_000, samples).astype(float)
    found = mfcc(torch.from_numpy(wave)[None])[0].numpy()
    np.testing.assert_allclose(found, by_the_book(wave), atol=1e-9)


def test_batches_are_tracks_side_by_side():
    waves = torch.from_numpy(np.random.default_rng(0).integers(-9, 9, (3, 2000)))
    torch.testing.assert_close(mfcc(waves)[1], mfcc(waves[1:2])[0], atol=1e-12, rtol=0)


def test_scale_moves_the_energy_only():
    wave = 100 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    soft, loud = mfcc(wave)[0], mfcc(8 * wave)[0]
    torch.testing.assert_close(soft[:, 1:], loud[:, 1:], atol=1e-9, rtol=0)
    torch.testing.assert_close(loud[:, 0] - soft[:, 0], torch.full((24,), 64.0, dtype=torch.float64).log())


def test_floats_become_what_a_16_bit_file_holds():
    wave = torch.tensor([[0.0, 0.5, -1.0, 1.0, 1e-6, 3 / 32768]])
    assert to_int16_scale(wave).tolist() == [[0, 16384, -32768, 32767, 0, 3]]
    stored = torch.randint(-32768, 32768, (1, 500), dtype=torch.int16)
    assert torch.equal(to_int16_scale(stored.float() / 32768), stored.double())
