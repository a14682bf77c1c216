"""Damaged is what cannot be decoded from the beginning on, where it is needed; nothing else is."""

from pathlib import Path

import av
import numpy as np
import pytest

from components.errors import InputError
from components.media.reader import MediaReader, read_audio, read_video
from components.media.sound_reader import SoundReader
from tests.components.media.made_files import RATE, noise, snr_db, write_file
from tests.components.media.stamped_frames import read_stamps

X264 = {"crf": "10", "preset": "veryfast"}
REFRESH = {**X264, "x264-params": "intra-refresh=1:keyint=30:bframes=0"}
OPEN = {**X264, "x264-params": "open-gop=1:keyint=24:bframes=3:scenecut=0"}


def spoil(path: Path, packets: range, kind: str = "video") -> None:
    """Overwrites some packets of the picture (or sound)."""
    head = 0 if path.suffix == ".mp4" else 12  # Matroska's own header of a packet
    with av.open(path) as file:
        found = [(packet.pos, packet.size) for packet in file.demux(**{kind: 0}) if packet.size]
    data = bytearray(path.read_bytes())
    for index in packets:
        at, size = found[index]
        data[at + head : at + size] = b"\xff" * (size - head)
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("options", [REFRESH, OPEN], ids=["recovery points", "open groups"])
def test_frames_after_a_seek_are_those_of_the_whole(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    path = write_file(tmp_path / name, "libx264", frames=range(150), video_options=options)
    with av.open(path) as file:
        whole = [frame.to_ndarray(format="rgb24").astype(int) for frame in file.decode(video=0)]
    with MediaReader(path) as media:
        for start in (10, 31, 47, 70, 95, 121):
            for index, picture in enumerate(media.video(start / 30, 3, 30, 64, 64).numpy()):
                # scalers round differently
                assert np.abs(picture.transpose(1, 2, 0) - whole[start + index]).max() <= 3


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_damage_elsewhere_does_not_matter(tmp_path: Path, name: str) -> None:
    """A seek that lands at a recovery point is tried again from a little earlier, not from the start."""
    path = write_file(tmp_path / name, "libx264", frames=range(240), video_options=REFRESH)
    spoil(path, range(3, 12))
    with pytest.raises(InputError, match=r"picture of .*a\.\w+ (is corrupt|cannot be used: the frame at)"):
        read_video(path, 0.0, 30, 30, 64, 64)
    for start in (151, 181, 211):
        assert read_stamps(read_video(path, start / 30, 8, 30, 64, 64).numpy()) == list(range(start, start + 8))


def test_recordings_that_begin_in_the_middle(tmp_path: Path) -> None:
    """As captured from a broadcast: the first packets are the rest of some, and the first frames lack their key."""
    path = write_file(tmp_path / "a.mpg", "mpeg1video", "mp2", noise(4.0), range(120))
    data = path.read_bytes()
    path.write_bytes(data[len(data) // 4 + 777 :])
    with MediaReader(path) as media:
        steps = np.diff(read_stamps(media.video(0.5, 30, 30, 64, 64).numpy()))
        assert steps.sum() == pytest.approx(29, abs=1)  # the first time stamps are guesses
        assert set(steps) <= {0, 1, 2}
        assert media.audio(0.5, RATE, RATE).abs().max() > 0.1
    with SoundReader(path) as sound:
        assert sound.read_all(RATE, max_missing_s=0.2).abs().max() > 0.1


def test_damaged_sound_is_refused_where_it_is_needed(tmp_path: Path) -> None:
    sound = noise(6.0)
    path = write_file(tmp_path / "a.mkv", "mpeg4", "flac", sound, range(180))
    spoil(path, range(2, 5), "audio")
    with pytest.raises(InputError, match=r"the sound of .*a\.mkv is corrupt"):
        read_audio(path, 0.0, RATE, RATE)
    assert snr_db(read_audio(path, 4.0, RATE, RATE).numpy(), sound[4 * RATE : 5 * RATE]) > 40


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
def test_late_clips_do_not_decode_what_lies_before(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_file(tmp_path / name, "mpeg4", "mp2", noise(16.0), range(480), gop=12)
    shown = 0
    original = av.Packet.decode

    def counted(packet: av.Packet) -> list:
        nonlocal shown
        shown += 1
        return original(packet)

    monkeypatch.setattr(av.Packet, "decode", counted)
    with MediaReader(path) as media:
        media.video(13.0, 10, 30, 64, 64)
        media.audio(13.0, RATE // 2, RATE)
    assert shown < 150
