"""What is missing in a sound, what only seems to be, and what must not be heard."""

from pathlib import Path

import numpy as np
import pytest
import torch

from components.errors import InputError
from components.media.placing import Block, place
from components.media.reader import MediaReader, read_audio, read_sound
from components.media.sound_reader import SoundReader
from tests.components.media.made_files import RATE, noise, snr_db, write_file

BLOCK = 1024


def stamped(path: Path, sound: np.ndarray, shifts: dict[int, int]) -> Path:
    """PCM in Matroska whose blocks ``index`` (and, for holes, all that follow) come ``shifts[index]`` samples later."""
    count = -(-len(sound) // BLOCK)
    stamps = [index * BLOCK + shifts.get(index, 0) for index in range(count)]
    return write_file(path, "mpeg4", "pcm_s16le", sound, range(round(len(sound) / RATE * 30)), stamps=stamps)


def test_jitter_of_time_stamps_does_not_chop_the_sound(tmp_path: Path) -> None:
    """As Vorbis has it: some blocks' time stamps are 10 ms off, and what follows is on time again."""
    sound = noise(4.0)
    jitter = {index + k: 480 for index in (20, 50, 51, 90, 140) for k in range(3)} | {120: -600}
    path = stamped(tmp_path / "a.mkv", sound, jitter)
    for start in (0.0, 0.5, 1.1, 2.0):
        first = round(start * RATE)
        assert snr_db(read_audio(path, start, RATE, RATE).numpy(), sound[first : first + RATE]) > 40
    assert snr_db(read_sound(path, RATE).numpy(), sound) > 40


def test_a_real_hole_is_silence_as_long_as_it_is_tolerated(tmp_path: Path) -> None:
    sound, lost = noise(4.0), 7440  # 155 ms
    shifts = dict.fromkeys(range(94, 200), lost)
    path = stamped(tmp_path / "a.mkv", sound, shifts)
    hole = 94 * BLOCK  # 2.005 s
    expected = np.concatenate([sound[:hole], np.zeros(lost, np.float32), sound[hole:]])
    for start in (0.3, 1.2, 1.9, 2.1):
        first = round(start * RATE)
        with MediaReader(path) as media:
            part = media.audio(start, RATE, RATE, max_missing_s=0.2).numpy()
        # the stamps are rounded to milliseconds
        shift = max(range(-60, 61), key=lambda k: float(part @ expected[first + k : first + k + RATE]))
        assert abs(shift) <= 48
        assert snr_db(part, expected[first + shift : first + shift + RATE]) > 20
    assert len(read_sound(path, RATE, max_missing_s=0.2)) == pytest.approx(len(expected), abs=60)
    with pytest.raises(InputError, match=r"a\.mkv lacks 0\.15\d s of sound between 1\.200 and 2\.200 s"):
        read_audio(path, 1.2, RATE, RATE)
    with pytest.raises(InputError, match=r"a\.mkv has holes of 0\.15\d s in its sound, more than the 0\.1 s allowed"):
        read_sound(path, RATE)


def test_only_lasting_drift_moves_samples() -> None:
    def line(shifts: dict[int, float], count: int = 100) -> tuple[int, list[float]]:
        blocks = [Block(np.full(1000, i, np.float32), i / 48 + shifts.get(i, 0.0), RATE) for i in range(count)]
        placed = place(blocks, 0.0)
        return len(placed.pieces), placed.starts

    assert line({}) == (1, [0.0])
    for jitter in ({40: 0.01, 41: -0.01}, {0: 0.01}, {98: 0.03}, dict.fromkeys(range(40, 48), 0.03)):
        assert line(jitter) == (1, [0.0])
    # a hole, also shortly before the end and after the begin, and an overlap
    for first, step in ((50, 0.02), (97, 0.05), (3, 0.05), (60, -0.1)):
        pieces, starts = line(dict.fromkeys(range(first, 100), step))
        assert pieces == 2
        assert starts == pytest.approx([0.0, first * 1000 + step * RATE])
    # a clock that runs 1 % slow is followed
    pieces, starts = line({i: i / 4800 for i in range(400)}, 400)
    assert pieces > 3
    assert starts[-1] > 0.05 * RATE


def test_missing_sound_is_counted_once() -> None:
    blocks = [Block(np.zeros(4800, np.float32), at, RATE) for at in (0.0, 0.5, 0.55, 1.0)]
    line = place(blocks, 0.0)
    assert line.missing(0.0, 1.1 * RATE) / RATE == pytest.approx(0.4 + 0.35, abs=0.01)
    assert line.missing(0.5 * RATE, 0.6 * RATE) == pytest.approx(0.0, abs=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_named(tmp_path: Path, value: float) -> None:
    sound = noise(3.0)
    sound[RATE : RATE + 3] = value
    path = write_file(tmp_path / "a.wav", None, "pcm_f32le", sound)
    with SoundReader(path) as reader:
        assert torch.isfinite(reader.read(1.5, 16000, 16000)).all()
        with pytest.raises(
            InputError, match=r"the sound of .*a\.wav cannot be used: 3 samples are NaN or infinite, the"
        ):
            reader.read(0.5, RATE, RATE)
    with pytest.raises(
        InputError, match=r"a\.wav cannot be used: 3 samples are NaN or infinite, the first at 1\.000 s;"
    ):
        read_sound(path, 16000)


@pytest.mark.parametrize("start_s", [float("nan"), float("inf")])
def test_starts_that_are_no_time_are_refused(tmp_path: Path, start_s: float) -> None:
    path = write_file(tmp_path / "a.mkv", "mpeg4", "pcm_s16le", noise(1.0), range(30))
    with MediaReader(path) as media:
        with pytest.raises(InputError, match=rf"a\.mkv: cannot read 1 frames of 8x8 from {start_s} s"):
            media.video(start_s, 1, 30, 8, 8)
        with pytest.raises(InputError, match=rf"a\.mkv: cannot read 5 samples from {start_s} s"):
            media.audio(start_s, 5, RATE)


def mixed(tmp_path: Path, layout: str, levels: list[float], name: str = "a.wav") -> float:
    """Level of a tone that the channels carry with these levels."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    sound = np.array(levels, np.float32)[:, None] * tone
    path = write_file(tmp_path / name, None, "pcm_s16le", sound, layout=layout)
    return float(read_sound(path, RATE).numpy() @ tone / (tone @ tone))


# Matroska does not say where the channels of PCM are, wav does
@pytest.mark.parametrize("name", ["a.wav", "a.mkv"])
def test_surround_is_mixed_by_the_places_of_its_channels(tmp_path: Path, name: str) -> None:
    # left, right, centre, bass, two surrounds
    for channel, weight in enumerate((0.5**0.5, 0.5**0.5, 1.0, 0.0, 0.5, 0.5)):
        levels = [0.5 * (channel == k) for k in range(6)]
        assert mixed(tmp_path, "5.1", levels, name) == pytest.approx(0.5 * weight, abs=0.001)


def test_channels_without_a_centre_are_mixed_as_stereo_is(tmp_path: Path) -> None:
    assert mixed(tmp_path, "stereo", [0.5, 0.0]) == pytest.approx(0.25, abs=0.001)
    assert mixed(tmp_path, "quad", [0.5, 0.5, 0.0, 0.0]) == pytest.approx(0.5, abs=0.001)
    assert mixed(tmp_path, "quad", [0.0, 0.0, 0.5, 0.0]) == pytest.approx(0.5 * 0.5**1.5, abs=0.001)
    # unnamed: any of them may be anywhere
    assert mixed(tmp_path, "quad", [0.0, 0.0, 0.5, 0.0], "a.mkv") == pytest.approx(0.125, abs=0.001)
