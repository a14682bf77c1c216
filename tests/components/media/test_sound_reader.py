"""Sound tracks on their own and beside another file's picture."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from components.errors import InputError
from components.media.reader import MediaReader
from components.media.sound_reader import SoundReader
from components.media.writer import write_mp4, write_wav

RATE = 16000
Mux = Callable[..., Path]


@pytest.fixture
def tone(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A wav file of 2 s of a tone that rises."""
    times = torch.arange(2 * RATE) / RATE
    sound = 0.5 * torch.sin(2 * torch.pi * (200 + 300 * times) * times)
    write_wav(tmp_path / "tone.wav", sound, RATE)
    return tmp_path / "tone.wav", sound


def test_spans_of_a_file_without_picture(tone: tuple[Path, torch.Tensor]) -> None:
    path, sound = tone
    with SoundReader(path) as reader:
        assert reader.sample_rate == RATE
        assert reader.span_s == pytest.approx((0.0, 2.0))
        for start in (0, 1, 12345):
            assert (reader.read(start / RATE, 8000, RATE) - sound[start : start + 8000]).abs().max() < 1e-4
        with pytest.raises(InputError, match=r"tone\.wav lacks 0\.500 s of sound between 1\.500 and 2\.500 s"):
            reader.read(1.5, RATE, RATE)
        padded = reader.read(1.5, RATE, RATE, max_missing_s=0.6)
        assert (padded[:8000] - sound[24000:]).abs().max() < 1e-4
        assert not padded[8000:].any()


def test_a_picture_takes_its_sound_from_another_file(mux: Mux, tone: tuple[Path, torch.Tensor]) -> None:
    """Both begin together, also where the picture's time stamps begin later."""
    path, sound = tone
    times = [Fraction(k, 24) + Fraction(1, 2) for k in range(60)]
    picture = mux("late.mp4", times, audio=np.zeros(3 * RATE, np.float32), sample_rate=RATE)
    with MediaReader(picture, path) as media:
        assert media.info.audio_span_s == pytest.approx((0.0, 2.0))
        assert media.info.sample_rate == RATE
        assert (media.audio(0.25, 8000, RATE) - sound[4000:12000]).abs().max() < 1e-4
        assert media.video(0.25, 24, 24, 64, 64).shape[0] == 24


def test_what_cannot_be_heard_is_named(tmp_path: Path, tone: tuple[Path, torch.Tensor]) -> None:
    video = torch.zeros(24, 3, 16, 16, dtype=torch.uint8)
    write_mp4(tmp_path / "mute.mp4", video, 24)
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    for picture in (None, tmp_path / "mute.mp4"):
        for name, reason in (
            ("mute.mp4", "has no audio track"),
            ("gone.wav", "does not exist"),
            ("bad.wav", "is corr"),
        ):
            with pytest.raises(InputError, match=rf"{name} {reason}"):
                SoundReader(tmp_path / name) if picture is None else MediaReader(picture, tmp_path / name)
    with SoundReader(tone[0]) as reader, pytest.raises(InputError, match=r"sample_rate is 0 for .*tone\.wav"):
        reader.read(0, 10, 0)
