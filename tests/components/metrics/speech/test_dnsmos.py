"""DNSMOS with its own networks against the values of its own package, and what is said where they are missing."""

import sys
from pathlib import Path

import pytest
import torch

from components.errors import InputError
from components.metrics.speech.dnsmos import Dnsmos
from tests.components.metrics.generations import noise, sounding, tone


@pytest.fixture(scope="module")
def scorer() -> Dnsmos:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("speechmos")
    return Dnsmos()


def buzz(seconds: float) -> torch.Tensor:
    """Something like a voice: harmonics of 120 Hz in syllables."""
    sound = sum(tone(120 * harmonic, seconds, 16000, 0.3 / harmonic) for harmonic in range(1, 20))
    return 0.5 * sound * tone(2, seconds, 16000, 1.0).square()


# dnsmos.run of speechmos 0.0.1.1 (with librosa 0.11) of the same sounds: ovrl, sig, bak, p808
PACKAGES_VALUES = {1.3: (1.37586, 2.10954, 1.45243, 2.28165), 11.5: (1.49713, 2.59815, 1.71342, 2.27321)}


@pytest.mark.parametrize("seconds", PACKAGES_VALUES)
def test_values_are_the_packages(scorer: Dnsmos, seconds: float):
    sound = buzz(seconds) + noise(seconds, 16000, level=0.01)
    theirs = PACKAGES_VALUES[seconds]
    (ours,) = scorer.score(sounding(sound[None], 16000), [0])
    assert set(ours.values) == set(scorer.higher_is_better)
    for name, value in zip(("ovrl", "sig", "bak", "p808"), theirs, strict=True):
        assert ours.values[f"dnsmos_{name}"] == pytest.approx(value, abs=2e-4)


def test_noise_makes_it_worse(scorer: Dnsmos):
    clean = buzz(3.0)
    sounds = torch.stack([clean, clean + noise(3.0, 16000, level=0.1), noise(3.0, 16000)])
    values = [scores.values["dnsmos_bak"] for scores in scorer.score(sounding(sounds, 16000), [0, 1, 2])]
    assert values[0] > values[1] > 0 and values[0] > values[2]
    alone = scorer.score(sounding(sounds[1:2], 16000), [0])[0].values["dnsmos_bak"]
    assert alone == values[1]


def test_digital_silence_has_a_value(scorer: Dnsmos):
    (scores,) = scorer.score(sounding(torch.zeros(1, 16000), 16000), [0])
    assert all(torch.isfinite(torch.tensor(value)) for value in scores.values.values())


def test_no_sound_at_all_has_none(scorer: Dnsmos):
    (scores,) = scorer.score(sounding(torch.zeros(1, 0), 16000), [0])
    assert scores.problem == "no_sound" and not scores.values


def test_missing_files_and_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match=r"sig_bak_ovr.onnx' does not exist; give the folder dnsmos_models"):
        Dnsmos(str(tmp_path))
    for name in ("sig_bak_ovr.onnx", "model_v8.onnx"):
        (tmp_path / name).write_bytes(b"no network")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"needs onnxruntime .*pip install 'avsync\[eval\]'"):
        Dnsmos(str(tmp_path))


def test_damaged_files(scorer: Dnsmos, tmp_path: Path):
    for name in ("sig_bak_ovr.onnx", "model_v8.onnx"):
        (tmp_path / name).write_bytes(b"no network")
    with pytest.raises(InputError, match="is no readable ONNX network"):
        Dnsmos(str(tmp_path))
    assert len(scorer.identity()["weights_sha256"]) == 2
