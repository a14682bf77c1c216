"""Every container is read the same: from any start, twice, and as long as it is."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from PIL import Image

from components.errors import InputError
from components.media.reader import MediaReader, probe, read_audio, read_image, read_sound, read_video
from components.media.sound_reader import SoundReader
from tests.components.media.made_files import RATE, noise, snr_db, write_file
from tests.components.media.stamped_frames import read_stamps, stamp

Mux = Callable[..., Path]


def stamps(path: Path, start_s: float, count: int = 10) -> list[int]:
    return read_stamps(read_video(path, start_s, count, 30, 64, 64).numpy())


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp3", "libmp3lame"), ("a.aac", "aac"), ("a.ac3", "ac3"), ("a.mp2", "mp2"), ("a.amr", "libopencore_amrnb")],
)
def test_sounds_that_refuse_to_seek_before_their_begin(tmp_path: Path, name: str, codec: str) -> None:
    rate = 8000 if codec.endswith("amrnb") else RATE
    path = write_file(tmp_path / name, None, codec, noise(3.0, rate), rate=rate)
    whole = read_sound(path, rate).numpy()
    for start in (0, 0.1, 0.3, 1.2):
        with SoundReader(path) as reader:
            part = reader.read(start, rate, rate).numpy()
        first = round(start * rate)
        assert snr_db(part, whole[first : first + rate]) > 25  # amr and ac3 dither


@pytest.mark.parametrize(
    ("name", "video", "audio"),
    [
        ("a.avi", "mpeg4", "mp2"),
        ("a.flv", "flv", "libmp3lame"),
        # the first packets after a seek are partial
        ("a.mpg", "mpeg1video", "mp2"),
        ("a.vob", "mpeg2video", "ac3"),
        ("a.ts", "mpeg2video", "mp2"),
        ("a.nut", "mjpeg", "pcm_s16le"),
        ("a.wmv", "wmv2", "wmav2"),
    ],
)
def test_recordings_are_the_same_from_any_start(tmp_path: Path, name: str, video: str, audio: str) -> None:
    sound = noise(4.0)
    layout, sound = ("stereo", np.stack([sound, sound])) if audio == "wmav2" else ("mono", sound)
    container = "asf" if name.endswith("wmv") else None
    path = write_file(tmp_path / name, video, audio, sound, range(120), layout=layout, container=container)
    with MediaReader(path) as media:
        whole = media.audio(0.0, 3 * RATE, RATE).numpy()
        assert media.info.duration_s == pytest.approx(4.0, abs=0.04)
        for start in (0, 15, 40, 72):
            # the same open file is used for all of them
            assert read_stamps(media.video(start / 30, 12, 30, 64, 64).numpy()) == list(range(start, start + 12))
            first = round(start / 30 * RATE)
            part = media.audio(start / 30, RATE // 2, RATE).numpy()
            # time stamps may be rounded to milliseconds
            slips = range(-48, 49) if first and name.endswith("wmv") else (0,)
            assert max(snr_db(part, whole[first + k : first + k + RATE // 2]) for k in slips) > 25


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.mpg", "a.png", "a.gif"])
def test_a_reader_used_twice_gives_the_same_twice(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(("png", "gif")):
        Image.fromarray(stamp(37)).save(path)
        count = 1
    else:
        write_file(path, "mpeg1video" if name.endswith("mpg") else "mpeg4")
        count = 20
    with MediaReader(path) as media:
        first = media.video(0.0, count, 30, 64, 64)
        assert torch.equal(media.video(0.0, count, 30, 64, 64), first)
        assert read_stamps(first.numpy())[0] == (37 if count == 1 else 0)


def test_frames_of_no_bytes_show_the_one_before_on(tmp_path: Path) -> None:
    """So Ogg stores Theora's repeated frames, and others what was left out when recording."""
    path = tmp_path / "a.nut"
    write_file(path, "mpeg4", frames=range(60), gop=12, empty=[*range(20, 34), *range(50, 60)])
    with av.open(path) as file:
        assert sum(not packet.size for packet in file.demux(video=0)) > 20
    expected = [k if k < 20 else 19 for k in range(34)]
    assert stamps(path, 0.0, 34) == expected
    assert stamps(path, 0.8, 10) == expected[24:34]
    # the last frame is shown on as well, and the picture ends where its packets do
    assert stamps(path, 1.4, 18)[-11:] == [49] * 11
    assert probe(path).duration_s == pytest.approx(2.0, abs=0.01)
    with pytest.raises(InputError, match=r"a\.nut is too short: its picture ends at 2\.000 s"):
        stamps(path, 1.5, 20)


def test_titles_in_another_encoding_are_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    with av.open(path, "w") as file:
        file.metadata["title"] = "Cafe Muenchen"
        picture = file.add_stream("mpeg4", rate=30)
        picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
        for number in range(5):
            file.mux(picture.encode(av.VideoFrame.from_ndarray(stamp(number), format="rgb24")))
        file.mux(picture.encode())
    path.write_bytes(path.read_bytes().replace(b"Cafe Muenchen", "Café München!".encode("latin1")))
    assert stamps(path, 0.0, 4) == [0, 1, 2, 3]


def test_durations_that_count_the_start_or_belong_to_another_track(tmp_path: Path) -> None:
    late = write_file(tmp_path / "late.mkv", "libx264", frames=range(3000, 3090))
    assert probe(late).duration_s == pytest.approx(3.0, abs=0.002)
    longer = write_file(tmp_path / "longer.mkv", "libx264", "libopus", noise(5.0), range(90))
    info = probe(longer)
    assert info.duration_s == pytest.approx(3.0, abs=0.002)
    assert info.num_frames == 90
    assert info.audio_span_s == pytest.approx((0.0, 5.0), abs=0.03)
    # as a browser records: neither length nor index
    live = write_file(tmp_path / "live.webm", "libvpx", "libopus", noise(3.0), range(90), options={"live": "1"})
    info = probe(live)
    assert info.duration_s == pytest.approx(3.0, abs=0.002)
    assert info.audio_span_s == pytest.approx((0.0, 3.0), abs=0.03)
    assert stamps(live, 2.5) == list(range(75, 85))


@pytest.mark.parametrize(("name", "codec"), [("a.aac", "aac"), ("a.mp3", "libmp3lame")])
def test_lengths_are_not_guessed_from_the_bit_rate(tmp_path: Path, name: str, codec: str) -> None:
    loud = np.concatenate([noise(2.0), np.zeros(6 * RATE, np.float32)])
    path = write_file(tmp_path / name, None, codec, loud, options={} if codec == "aac" else {"write_xing": "0"})
    with SoundReader(path) as reader:
        assert reader.span_s == pytest.approx((0.0, 8.0), abs=0.07)


def test_streams_without_container_are_counted(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.h264", "libx264", video_options={"crf": "10"}, container="h264")
    assert stamps(path, 0.0, 90) == list(range(90))
    assert stamps(path, 2.0) == list(range(60, 70))
    assert probe(path).duration_s == pytest.approx(3.0, abs=0.04)


def test_pixel_aspect_that_the_container_says(tmp_path: Path, mux: Mux) -> None:
    """It goes before what the coded picture says, which may be nothing."""
    squeezed = np.zeros((64, 32, 3), np.uint8)
    squeezed[:, 8:24] = 255  # shown 128 wide: the white part is the middle 64 of a 64 x 128 picture
    path = mux("a.mp4", [0.0, 0.1], images=[squeezed, squeezed], pixel_aspect=Fraction(2, 1))
    data = bytearray(path.read_bytes())
    at = data.index(b"pasp") + 4
    assert data[at : at + 8] == bytes((0, 0, 0, 2, 0, 0, 0, 1))
    data[at + 3] = 4
    path.write_bytes(data)
    assert read_video(path, 0, 1, 10, 64, 64)[0].float().min() > 150
    whole = read_video(path, 0, 1, 10, 64, 128)[0].float()
    assert whole[:, :, :28].max() < 60
    assert whole[:, :, 36:92].min() > 190


@pytest.fixture
def two_of_each(tmp_path: Path) -> Path:
    """A grey picture and silence first, stamped frames and noise second, which are the default tracks."""
    path = tmp_path / "two.mkv"
    sounds = np.zeros(2 * RATE, np.float32), noise(2.0)
    with av.open(path, "w") as file:
        pictures = [file.add_stream("libx264", rate=30) for _ in range(2)]
        heard = [file.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(2)]
        for index, stream in enumerate((*pictures, *heard)):
            stream.disposition = Disposition.default if index % 2 else Disposition(0)
        for picture in pictures:
            picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
        for number in range(60):
            for picture, image in zip(pictures, (np.full((64, 64, 3), 128, np.uint8), stamp(number)), strict=True):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 30)
                file.mux(picture.encode(frame))
        for picture in pictures:
            file.mux(picture.encode())
        for stream, sound in zip(heard, sounds, strict=True):
            block = (sound[None] * 32767).astype(np.int16)
            chunk = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            chunk.sample_rate, chunk.pts, chunk.time_base = RATE, 0, Fraction(1, RATE)
            file.mux(stream.encode(chunk))
    return path


def test_the_default_tracks_are_read_and_others_on_demand(two_of_each: Path) -> None:
    assert stamps(two_of_each, 0.5) == list(range(15, 25))
    assert read_audio(two_of_each, 0.0, RATE, RATE).abs().max() > 0.2
    assert read_sound(two_of_each, RATE).abs().max() > 0.2
    with MediaReader(two_of_each, video_track=0, audio_track=0) as media:
        assert (media.video(0.5, 3, 30, 64, 64).float() - 128).abs().max() < 4
        assert not media.audio(0.0, RATE, RATE).any()
    assert not read_sound(two_of_each, RATE, audio_track=0).any()
    with SoundReader(two_of_each, audio_track=1) as sound:
        assert sound.read(0.0, RATE, RATE).abs().max() > 0.2


def test_tracks_that_are_not_there_are_named(two_of_each: Path) -> None:
    with pytest.raises(
        InputError, match=r"two\.mkv has 2 video tracks but video_track is 2; give a number from 0 to 1"
    ):
        MediaReader(two_of_each, video_track=2)
    for kind in (MediaReader, SoundReader):
        with pytest.raises(InputError, match=r"two\.mkv has 2 audio tracks but audio_track is -1; give a number"):
            kind(two_of_each, audio_track=-1)


def test_a_cover_is_no_picture(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), (200, 0, 0)).save(tmp_path / "cover.png")
    cover = b"\0image/png\0\3\0" + (tmp_path / "cover.png").read_bytes()
    plain = write_file(tmp_path / "plain.mp3", None, "libmp3lame", noise(2.0))

    def synchsafe(size: int) -> bytes:
        return bytes((size >> shift) & 127 for shift in (21, 14, 7, 0))

    tag = b"APIC" + len(cover).to_bytes(4, "big") + b"\0\0" + cover
    song = tmp_path / "song.mp3"
    song.write_bytes(b"ID3\3\0\0" + synchsafe(len(tag)) + tag + plain.read_bytes())
    with pytest.raises(InputError, match=r"song\.mp3 has no video track; give a file with a picture"):
        MediaReader(song)
    with SoundReader(song) as sung, SoundReader(plain) as bare:
        assert torch.equal(sung.read(0.5, RATE, RATE), bare.read(0.5, RATE, RATE))
    # asked for by its number it is a picture
    with MediaReader(song, video_track=0) as media:
        assert media.video(0.0, 1, 1.0, 8, 8)[0, :, 4, 4].tolist() == [200, 0, 0]


@pytest.mark.parametrize("codec", ["adpcm_ms", "adpcm_ima_wav", "adpcm_yamaha", "g726"])
def test_compressed_wavs_are_the_same_from_any_start(tmp_path: Path, codec: str) -> None:
    rate = 8000 if codec == "g726" else 44100
    sound = noise(4.0, rate)
    path = tmp_path / "a.wav"
    with av.open(path, "w") as file:
        heard = file.add_stream(codec, rate=rate, layout="mono")
        if codec == "g726":
            heard.bit_rate = 32000
        size = heard.codec_context.frame_size or 1024
        for begin in range(0, len(sound), size):
            block = (sound[None, begin : begin + size] * 32767).astype(np.int16)
            chunk = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            chunk.sample_rate, chunk.pts, chunk.time_base = rate, begin, Fraction(1, rate)
            file.mux(heard.encode(chunk))
        file.mux(heard.encode())
    for start in (0, 0.37 * rate, 1.5 * rate, 2.6 * rate):
        first = round(start)
        with SoundReader(path) as reader:
            part = reader.read(first / rate, rate, rate).numpy()
        assert snr_db(part, sound[first : first + rate]) > 12


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [((-1, 0, 0, 1), (0, 1)), ((1, 0, 0, -1), (1, 0)), ((0, 1, 1, 0), (0, 0)), ((0, -1, -1, 0), (1, 1))],
    ids=["mirrored", "upside down", "transposed", "transposed and turned"],
)
def test_recordings_that_their_header_mirrors(
    tmp_path: Path, mux: Mux, matrix: tuple[int, ...], corner: tuple[int, int]
) -> None:
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :48] = 255  # the upper left quarter
    path = mux("a.mp4", [0.0, 0.1], images=[picture, picture])
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value * 0x10000 for value in matrix)
    values = [a, b, 0, c, d, 0, 0, 0, 0x40000000]
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(data)
    rows, columns = (64, 96) if a else (96, 64)
    image = read_video(path, 0, 1, 10, rows, columns)[0].float().mean(0)
    quarters = image.reshape(2, rows // 2, 2, columns // 2).mean((1, 3))
    assert quarters[corner] > 230
    assert quarters.sum() < 280


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["webp", "tiff"])
def test_other_pictures_are_upright_too(tmp_path: Path, orientation: int, ending: str) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:10, :20], pixels[:10, 20:], pixels[10:, :20] = 250, 170, 90
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", exif=exif)
    image = Image.fromarray(pixels)
    turn = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270"}
    turn |= {7: "TRANSVERSE", 8: "ROTATE_90"}
    upright = image if orientation == 1 else image.transpose(Image.Transpose[turn[orientation]])
    wanted = torch.from_numpy(np.array(upright)).movedim(-1, 0).float()
    assert (read_image(tmp_path / f"a.{ending}", *wanted.shape[1:]).float() - wanted).abs().mean() < 6
