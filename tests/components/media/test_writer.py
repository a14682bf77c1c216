"""The writer: whole files or none, aligned tracks, clear refusals."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from components.errors import InputError
from components.media import writer
from components.media.reader import probe, read_clip, read_sound
from components.media.writer import write_mp4, write_wav
from datamodules.procedural.scenes import SCENES
from datamodules.procedural_clips import draw_events

BLACK = torch.zeros(24, 3, 32, 32, dtype=torch.uint8)


@pytest.mark.parametrize("rate", [16000, 22050, 44100, 48000])
def test_a_click_stays_within_a_millisecond(tmp_path: Path, rate: int) -> None:
    sound = torch.zeros(rate)
    sound[[rate // 4, rate // 2 + 37]] = 0.8
    write_mp4(tmp_path / "a.mp4", BLACK, 24, sound, rate)
    _, audio = read_clip(tmp_path / "a.mp4", 0, 24, 24, 32, 32, rate)
    found = audio.abs().topk(2).indices.sort().values
    assert (found - torch.tensor([rate // 4, rate // 2 + 37])).abs().max() <= 0.001 * rate


def test_both_tracks_begin_at_zero_and_the_index_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "a.mp4"
    write_mp4(path, BLACK, 24, torch.zeros(16000), 16000)
    with av.open(path) as container:
        assert [stream.start_time for stream in container.streams] == [0, 0]
        assert [stream.codec_context.name for stream in container.streams] == ["h264", "aac"]
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize("fps", [23.976, 24, 29.97, 12.5])
def test_frame_rates(tmp_path: Path, fps: float) -> None:
    write_mp4(tmp_path / "a.mp4", BLACK, fps)
    info = probe(tmp_path / "a.mp4")
    assert info.fps == pytest.approx(fps, rel=1e-4)
    assert info.num_frames == 24


def test_crf_trades_size_for_fidelity(tmp_path: Path) -> None:
    rough = torch.randint(0, 256, (12, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sizes, errors = [], []
    for crf in (2, 30):
        path = tmp_path / f"{crf}.mp4"
        write_mp4(path, rough, 24, torch.zeros(8000), 16000, crf=crf)
        sizes.append(path.stat().st_size)
        errors.append((read_clip(path, 0, 12, 24, 32, 32, 16000)[0].float() - rough.float()).abs().mean())
    assert sizes[0] > sizes[1]
    assert errors[0] < errors[1]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp4"
    write_mp4(path, BLACK, 24)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_encode_audio", fail)
    with pytest.raises(KeyboardInterrupt):
        write_mp4(path, BLACK, 24, torch.zeros(16000), 16000)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_refusals_name_the_file_and_leave_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with pytest.raises(InputError, match=r"a\.mp4: H\.264 .* even sizes, not 31x32"):
        write_mp4(path, BLACK[:, :, :31], 24)
    with pytest.raises(InputError, match=r"a\.mp4: fps is 0; it must be positive"):
        write_mp4(path, BLACK, 0)
    with pytest.raises(InputError, match=r"a\.mp4: AAC has no sample rate of 17000 Hz"):
        write_mp4(path, BLACK, 24, torch.zeros(100), 17000)
    with pytest.raises(ValueError, match="uint8"):
        write_mp4(path, BLACK.float(), 24)
    assert not list(tmp_path.iterdir())


def test_wav_round_trip_and_clipping(tmp_path: Path) -> None:
    sound = torch.linspace(-1.5, 1.5, 4001)
    write_wav(tmp_path / "a.wav", sound, 16000)
    assert torch.allclose(read_sound(tmp_path / "a.wav", 16000), sound.clamp(-1, 1), atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_the_same_clip_gives_the_same_file(tmp_path: Path) -> None:
    """A data set is rendered from its seed, and runs on it are compared number for number."""
    scene = np.random.default_rng(7)
    events = draw_events(2.0, scene)
    frames = SCENES["bouncing_ball"](events, np.arange(49) / 24, 32, 32, 0.5, scene)
    files = set()
    for i in range(120):  # one in thirty used to differ
        write_mp4(tmp_path / f"{i % 2}.mp4", torch.from_numpy(frames), 24.0, crf=10.0)
        files.add((tmp_path / f"{i % 2}.mp4").read_bytes())
    assert len(files) == 1
