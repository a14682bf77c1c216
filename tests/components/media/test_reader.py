"""The reader's one clock: which frame and which sample come when, from any container."""

from collections.abc import Callable
from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from components.errors import InputError
from components.media.reader import MediaReader, probe, read_audio, read_clip, read_image, read_sound, read_video
from components.media.writer import write_mp4, write_wav
from tests.components.media.made_files import turn
from tests.components.media.stamped_frames import read_stamps, stamp

Mux = Callable[..., Path]


def noise(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """Band-limited noise: it survives a codec and a resampler, and has one sharp correlation peak."""
    count = round(seconds * rate)
    white = np.fft.rfft(np.random.default_rng(seed).standard_normal(count))
    white[int(0.35 * min(rate, 16000) / rate * count) :] = 0
    shaped = np.fft.irfft(white, count)
    return (0.3 * shaped / np.abs(shaped).max()).astype(np.float32)


def lag(found: np.ndarray, expected: np.ndarray, reach: int = 200) -> int:
    """Samples by which ``found`` comes late."""
    core = expected[reach:-reach]
    scores = [float(core @ found[reach + k : reach + k + len(core)]) for k in range(-reach, reach + 1)]
    return int(np.argmax(scores)) - reach


def snr_db(found: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum()))


@pytest.mark.parametrize("source_fps", [30, 25, 24, 60, Fraction(30000, 1001)])
def test_frames_are_the_ones_on_screen_at_their_time(mux: Mux, source_fps: Fraction | int) -> None:
    times = [Fraction(k) / Fraction(source_fps) for k in range(100)]
    path = mux("a.mp4", times)
    for start_s in (0.0, 0.5, 0.7213):
        video = read_video(path, start_s, 20, 24, 64, 64)
        expected = [floor((start_s + n / 24) * float(source_fps) + 1e-3) for n in range(20)]
        assert read_stamps(video.numpy()) == expected


def test_millisecond_time_stamps_do_not_repeat_frames(mux: Mux) -> None:
    path = mux("a.mkv", [Fraction(k, 24) for k in range(60)])
    assert read_stamps(read_video(path, 0.0, 60, 24, 64, 64).numpy()) == list(range(60))


def test_variable_frame_rate_holds_each_frame_until_the_next(mux: Mux) -> None:
    times = [0.0, 0.1, 0.13, 0.5, 0.52, 1.2, 1.3]
    path = mux("vfr.mp4", times)
    video = read_video(path, 0.0, 30, 24, 64, 64)
    expected = [max(k for k, t in enumerate(times) if t <= n / 24 + 1e-4) for n in range(30)]
    assert read_stamps(video.numpy()) == expected


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start_frame=st.integers(0, 150), fps=st.sampled_from([6.0, 10.0, 24.0, 25.0]))
def test_seeking_gives_what_decoding_from_the_start_gives(tmp_path: Path, start_frame: int, fps: float) -> None:
    path = tmp_path / "long.mp4"
    if not path.exists():
        frames = torch.from_numpy(np.stack([stamp(k) for k in range(200)])).permute(0, 3, 1, 2)
        write_mp4(path, frames, 30)
    start_s = start_frame / 30
    found = read_stamps(read_video(path, start_s, 8, fps, 64, 64).numpy())
    assert found == [min(199, floor(start_frame + 30 * n / fps + 1e-3)) for n in range(8)]


@pytest.mark.parametrize("name", ["late.ts", "late.mkv"])
def test_streams_that_do_not_start_at_zero(mux: Mux, name: str) -> None:
    sound = noise(3.0, 48000)
    codec = "aac" if name.endswith("ts") else "libopus"
    path = mux(name, [Fraction(k, 30) + 5 for k in range(90)], sound, 48000, audio_start=5.0, audio_codec=codec)
    for second in (0, 1):
        video, audio = read_clip(path, second, 24, 24, 64, 64, 16000)
        assert read_stamps(video.numpy()) == [floor(30 * second + n * 1.25 + 1e-3) for n in range(24)]
        expected = sound[48000 * second : 48000 * (second + 1) : 3]
        assert audio[:100].abs().max() > 0.01
        assert abs(lag(audio.numpy(), expected)) <= (8 if codec == "libopus" else 1)  # Matroska's clock ticks in ms


@pytest.mark.parametrize("offset_s", [0.25, -0.064])
def test_sound_that_starts_at_another_time_than_the_picture(mux: Mux, offset_s: float) -> None:
    sound = noise(3.0, 16000)
    path = mux("a.mp4", [Fraction(k, 24) + 1 for k in range(48)], sound, audio_start=1 + offset_s)
    audio = read_audio(path, 0.5, 16000, 16000).numpy()
    first = 8000 - round(offset_s * 16000)
    assert lag(audio, sound[first : first + 16000]) == 0


@pytest.mark.parametrize("rate", [16000, 22050, 44100, 48000])
@pytest.mark.parametrize("start_s", [0.0, 0.8125, 1.7213])
def test_sound_is_exact_to_the_sample_after_aac(tmp_path: Path, rate: int, start_s: float) -> None:
    wide = noise(4.0, 176400)  # finer than every rate under test, so truth can be read off at any time
    at = np.arange(4 * rate) / rate
    source = np.interp(at, np.arange(len(wide)) / 176400, wide).astype(np.float32)
    path = tmp_path / "a.mp4"
    write_mp4(path, torch.zeros(96, 3, 16, 16, dtype=torch.uint8), 24, torch.from_numpy(source), rate)
    audio = read_audio(path, start_s, 24000, 16000).numpy()
    when = start_s + np.arange(24000) / 16000
    if rate == 16000:  # a slice at the nearest sample
        when = np.round(start_s * 16000) / 16000 + np.arange(24000) / 16000
    expected = np.interp(when, np.arange(len(wide)) / 176400, wide)
    assert lag(audio, expected.astype(np.float32)) == 0
    assert snr_db(audio[200:-200], expected[200:-200]) > 25


def test_sound_after_a_seek_equals_the_same_span_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_mp4(path, torch.zeros(240, 3, 16, 16, dtype=torch.uint8), 24, torch.from_numpy(noise(10, 16000)), 16000)
    whole = read_audio(path, 0.0, 160000, 16000)
    for start in (1, 1024, 40000, 96123):
        assert torch.equal(read_audio(path, start / 16000, 32000, 16000), whole[start : start + 32000])


def test_flash_and_click_stay_together_through_resampling(tmp_path: Path) -> None:
    for fps in (30, 25):
        frames = torch.zeros(3 * fps, 3, 32, 32, dtype=torch.uint8)
        sound = torch.zeros(3 * 44100)
        for second in (1, 2):
            frames[second * fps] = 255
            sound[second * 44100] = 0.9
        write_mp4(tmp_path / "a.mp4", frames, fps, sound, 44100)
        video, audio = read_clip(tmp_path / "a.mp4", 0.5, 48, 24, 32, 32, 16000)
        flash = (video.float().mean(dim=(1, 2, 3)) > 128).nonzero()[:, 0] / 24
        click = audio.abs().topk(2).indices.sort().values / 16000
        assert torch.allclose(click, torch.tensor([0.5, 1.5]), atol=1e-3)
        assert torch.allclose(flash, torch.tensor([0.5, 1.5]), atol=1 / 24)


def test_channels_are_averaged(mux: Mux) -> None:
    left, right = noise(1.0, 16000, 1), noise(1.0, 16000, 2)
    path = mux("a.mp4", [k / 24 for k in range(24)], np.stack([left, right]), layout="stereo")
    assert snr_db(read_audio(path, 0, 16000, 16000).numpy(), (left + right) / 2) > 20


def test_a_little_missing_sound_is_zero_and_more_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_mp4(path, torch.zeros(48, 3, 16, 16, dtype=torch.uint8), 24, torch.from_numpy(noise(1.92, 16000)), 16000)
    audio = read_audio(path, 1.0, 16000, 16000)
    assert audio[:14000].unfold(0, 500, 500).abs().amax(dim=1).min() > 0.05
    assert audio[-100:].abs().max() == 0
    with pytest.raises(InputError, match=r"a\.mp4 lacks 0\.5\d\d s of sound between 1\.500 and 2\.500 s"):
        read_audio(path, 1.5, 16000, 16000)


def test_the_last_frame_is_held_for_half_a_step_at_most(mux: Mux) -> None:
    path = mux("a.mp4", [Fraction(k, 30) for k in range(30)])
    assert read_stamps(read_video(path, 0.0, 24, 24, 64, 64).numpy())[-1] == 28
    assert read_stamps(read_video(path, 1 / 60, 24, 24, 64, 64).numpy())[-1] == 29
    with pytest.raises(InputError, match=r"a\.mp4 is too short: its picture ends at 1\.000 s but 0\.100\.\.1\.100 s"):
        read_video(path, 0.1, 24, 24, 64, 64)


def test_pictures_cover_the_size_and_are_cropped_about_the_centre(mux: Mux) -> None:
    wide = np.zeros((64, 192, 3), np.uint8)
    wide[:, 64:96], wide[:, 96:128], wide[:, :64], wide[:, 128:] = (255, 0, 0), (0, 0, 255), 255, 255
    video = read_video(mux("wide.mp4", [0.0, 0.1], images=[wide, wide]), 0, 1, 10, 32, 32)[0].float()
    assert video[0, :, 2:14].min() > 200
    assert video[2, :, 18:30].min() > 200
    assert video[1, :, 2:30].max() < 60  # nothing of the white margins
    tall = wide.transpose(1, 0, 2).copy()
    video = read_video(mux("tall.mp4", [0.0, 0.1], images=[tall, tall]), 0, 1, 10, 32, 32)[0].float()
    assert video[0, 2:14].min() > 200
    assert video[2, 18:30].min() > 200


def test_pixels_that_are_not_square_are_undone(mux: Mux) -> None:
    squeezed = np.zeros((64, 32, 3), np.uint8)
    squeezed[:, 8:24] = 255  # shown 128 wide... the white part fills the middle 64 of a 64 x 128 picture
    path = mux("sar.mp4", [0.0, 0.1], images=[squeezed, squeezed], pixel_aspect=Fraction(4, 1))
    assert read_video(path, 0, 1, 10, 64, 64)[0].float().min() > 150
    with MediaReader(path) as media:
        assert media.shown_size() == (64, 128)


def test_rotation_of_phone_recordings_is_applied(mux: Mux) -> None:
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, :48] = 255  # left half white; turned clockwise it becomes the upper half
    path = mux("phone.mp4", [0.0, 0.1], images=[picture, picture])
    turn(path)
    with MediaReader(path) as media:
        assert media.shown_size() == (96, 64)
        assert media.shown_size() == (96, 64)  # as often as asked
        assert media.video(0, 1, 10, 96, 64)[0, :, 4:44].min() > 200
    video = read_video(path, 0, 1, 10, 96, 64)[0].float()
    assert video[:, 4:44].min() > 200
    assert video[:, 52:].max() < 50


def test_colours_survive(tmp_path: Path) -> None:
    colours = torch.randint(0, 256, (24, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    write_mp4(tmp_path / "a.mp4", colours[:, :, None, None].expand(-1, -1, 32, 48).contiguous(), 24, crf=1)
    for height, width in ((32, 48), (16, 16), (64, 64)):
        read = read_video(tmp_path / "a.mp4", 0, 24, 24, height, width).float()
        assert (read.mean(dim=(2, 3)) - colours).abs().max() <= 2


def test_probe_reads_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_mp4(path, torch.zeros(50, 3, 32, 48, dtype=torch.uint8), 25, torch.zeros(88200), 44100)
    info = probe(path)
    assert (info.path, info.fps, info.num_frames, info.height, info.width) == (path, 25.0, 50, 32, 48)
    assert info.duration_s == pytest.approx(2.0)
    assert info.sample_rate == 44100
    assert info.audio_span_s == pytest.approx((0.0, 2.0), abs=0.001)
    write_mp4(path, torch.zeros(50, 3, 32, 48, dtype=torch.uint8), 25)
    assert probe(path).sample_rate is None
    assert probe(path).audio_span_s is None


def test_images(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:40], pixels[:, 40:60] = (250, 10, 20), (10, 30, 240)
    for name, mode in (("a.png", "RGB"), ("b.jpg", "RGB"), ("c.png", "RGBA"), ("d.webp", "RGB")):
        Image.fromarray(pixels).convert(mode).save(tmp_path / name, quality=95)
        image = read_image(tmp_path / name, 40, 40).float()
        assert image.shape == (3, 40, 40)
        assert (image[:, :, 5:15].mean(dim=(1, 2)) - torch.tensor([250.0, 10, 20])).abs().max() < 6, name
        assert (image[:, :, 25:35].mean(dim=(1, 2)) - torch.tensor([10.0, 30, 240])).abs().max() < 6, name
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png", 20, 20).shape == (3, 20, 20)


def transparent(tmp_path: Path) -> dict[str, Path]:
    """Pictures whose upper half is red (grey in "LA") and whose lower half is transparent, of a hidden green."""
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[:20], pixels[20:] = (200, 0, 0, 255), (0, 255, 0, 0)
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "rgba.png")
    picture.save(tmp_path / "rgba.webp", lossless=True, exact=True)
    picture.save(tmp_path / "rgba.gif")
    # a palette, of which one colour is transparent; and a colour that is named as transparent
    palette = Image.fromarray((pixels[..., 3] == 0).astype(np.uint8), "P")
    palette.putpalette([200, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "palette.png", transparency=1)
    picture.convert("RGB").save(tmp_path / "named.png", transparency=(0, 255, 0))
    Image.fromarray(np.stack([np.full((40, 40), 200, np.uint8), pixels[..., 3]], -1), "LA").save(tmp_path / "la.png")
    return {path.name: path for path in tmp_path.iterdir()}


def test_transparent_pictures_are_laid_over_a_colour(tmp_path: Path) -> None:
    pictures = transparent(tmp_path)
    assert len(pictures) == 6
    for name, path in pictures.items():
        seen = [200, 200, 200] if name == "la.png" else [200, 0, 0]
        for background, options in (([255] * 3, {}), ([10, 20, 250], {"background": (10, 20, 250)})):
            image = read_image(path, 40, 40, **options)
            for rows, color in ((image[:, :19], seen), (image[:, 21:], background)):
                assert (rows.float() - torch.tensor(color)[:, None, None]).abs().max() <= 3, (name, background)
    # as a first frame of a recording, too
    with MediaReader(pictures["rgba.gif"]) as media:
        assert media.video(0.0, 1, 1.0, 8, 8)[0, :, 7].min() == 255


def test_half_transparent_pixels_are_mixed(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (200, 100, 0, 51)).save(tmp_path / "a.png")  # a fifth
    image = read_image(tmp_path / "a.png", 8, 8, background=(0, 0, 250))
    assert image[:, 4, 4].tolist() == [40, 20, 200]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_pictures_are_upright_as_their_exif_says(tmp_path: Path, orientation: int, ending: str) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:10, :20], pixels[:10, 20:], pixels[10:, :20] = 250, 170, 90
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", exif=exif, quality=100)
    with Image.open(tmp_path / f"a.{ending}") as image:
        upright = torch.from_numpy(np.array(ImageOps.exif_transpose(image))).movedim(-1, 0)
    got = read_image(tmp_path / f"a.{ending}", *upright.shape[1:])
    assert (got.float() - upright.float()).abs().mean() < 2


def test_sounds(tmp_path: Path, mux: Mux) -> None:
    sound = noise(1.5, 44100)
    write_wav(tmp_path / "a.wav", torch.from_numpy(sound), 44100)
    assert read_sound(tmp_path / "a.wav", 44100).numpy() == pytest.approx(sound, abs=1 / 32000)
    wav = read_sound(tmp_path / "a.wav", 16000)
    assert wav.shape == (24000,)
    path = mux("a.mp4", [k / 24 for k in range(36)], sound, 44100)
    assert snr_db(read_sound(path, 16000)[200:23000].numpy(), wav[200:23000].numpy()) > 25
    mp3 = mux("b.mkv", [k / 24 for k in range(36)], sound, 44100, audio_codec="libmp3lame")
    assert abs(lag(read_sound(mp3, 16000)[:23000].numpy(), wav[:23000].numpy(), 2000)) <= 1200  # priming is unknown


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.mp4 does not exist; give the path"):
        read_video(tmp_path / "nowhere.mp4", 0, 1, 24, 8, 8)
    with pytest.raises(InputError, match="is a folder"):
        read_sound(tmp_path, 16000)


def test_files_that_are_no_media(tmp_path: Path) -> None:
    path = tmp_path / "page.mp4"
    for content in (b"", b"<html>not found</html>" * 50):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"page\.mp4 is corrupt, truncated or no media file \("):
            probe(path)


def test_truncated_and_corrupt_files(tmp_path: Path) -> None:
    rough = torch.randint(0, 256, (48, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    frames = rough.repeat_interleave(8, 2).repeat_interleave(8, 3)
    good, bad = tmp_path / "good.mp4", tmp_path / "bad.mp4"
    write_mp4(good, frames, 24, torch.from_numpy(noise(2, 16000)), 16000)
    content = good.read_bytes()
    for share in (0.01, 0.4, 0.7, 0.95):
        bad.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(InputError, match=r"bad\.mp4 .*(truncated|corrupt)"):
            read_clip(bad, 0, 48, 24, 64, 64, 16000)
    broken = bytearray(content)
    middle = content.index(b"mdat") + len(content) // 3
    broken[middle : middle + 3000] = bytes(3000)
    bad.write_bytes(broken)
    with pytest.raises(InputError, match=r"picture of .*bad\.mp4 (is corrupt|cannot be used: the frame at)"):
        read_clip(bad, 0, 48, 24, 64, 64, 16000)


def test_wrong_requests(tmp_path: Path) -> None:
    path = tmp_path / "mute.mp4"
    write_mp4(path, torch.zeros(24, 3, 16, 16, dtype=torch.uint8), 24)
    with pytest.raises(InputError, match=r"mute\.mp4 has no audio track; give a recording with sound"):
        read_audio(path, 0, 100, 16000)
    with pytest.raises(InputError, match=r"mute\.mp4 has no audio track"):
        read_sound(path, 16000)
    for fps in (0.0, -24.0, float("nan")):
        with pytest.raises(InputError, match=rf"fps is {fps} for .*mute\.mp4; it must be positive"):
            read_video(path, 0, 1, fps, 16, 16)
    write_wav(tmp_path / "a.wav", torch.zeros(100), 16000)
    with pytest.raises(InputError, match=r"a\.wav has no video track"):
        probe(tmp_path / "a.wav")
