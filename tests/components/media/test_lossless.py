import pytest
import torch

from components.errors import InputError
from components.media.lossless import write_lossless
from components.media.reader import MediaReader


def clip(frames, size, rate, fps):
    generator = torch.Generator().manual_seed(frames)
    video = torch.randint(0, 256, (frames, 3, *size), generator=generator, dtype=torch.uint8)
    return video, torch.randn(round(frames / fps * rate), generator=generator)


@pytest.mark.parametrize(
    ("frames", "size", "fps", "rate"),
    [(49, (32, 32), 24.0, 16_000), (20, (33, 47), 25.0, 44_100), (13, (64, 48), 24_000 / 1001, 22_050)],
)
def test_every_pixel_and_sample_comes_back(tmp_path, frames, size, fps, rate):
    video, audio = clip(frames, size, rate, fps)
    file = tmp_path / "below" / "clip.mov"
    write_lossless(file, video, fps, audio, rate)
    with MediaReader(file) as media:
        info = media.info
        assert torch.equal(media.video(0.0, frames, fps, *size), video)
        # beyond full scale too: nothing is clipped
        assert torch.equal(media.audio(0.0, len(audio), rate), audio) and audio.abs().max() > 2
    assert info.duration_s == pytest.approx(frames / fps, abs=1e-6)
    assert info.audio_span_s[1] * rate == pytest.approx(len(audio), abs=1e-3)
    assert [path.name for path in file.parent.iterdir()] == ["clip.mov"]


def test_a_clip_without_sound(tmp_path):
    video, _ = clip(3, (16, 16), 16_000, 24.0)
    write_lossless(tmp_path / "mute.mov", video, 24.0)
    with MediaReader(tmp_path / "mute.mov") as media:
        assert media.info.sample_rate is None
        assert torch.equal(media.video(0.0, 3, 24.0, 16, 16), video)


@pytest.mark.parametrize(("name", "fps", "frames"), [("a.mp4", 24.0, 2), ("a.mov", 0.0, 2), ("a.mov", 24.0, 0)])
def test_what_cannot_be_written_leaves_nothing(tmp_path, name, fps, frames):
    video = torch.zeros(frames, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(InputError, match=name):
        write_lossless(tmp_path / name, video, fps)
    assert not list(tmp_path.iterdir())
