"""Media files of any container and codec, made frame by frame."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.components.media.stamped_frames import stamp

RATE = 48000


def noise(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Band-limited noise: it survives a codec and a resampler, and has one sharp correlation peak."""
    count = round(seconds * rate)
    white = np.fft.rfft(np.random.default_rng(seed).standard_normal(count))
    white[int(0.25 * min(rate, 16000) / rate * count) :] = 0
    shaped = np.fft.irfft(white, count)
    return (0.3 * shaped / np.abs(shaped).max()).astype(np.float32)


def snr_db(found: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10((expected**2).sum() / max(1e-20, float(((found - expected) ** 2).sum()))))


def write_file(
    path: Path,
    video: str | None = None,
    audio: str | None = None,
    sound: np.ndarray | None = None,
    frames: Sequence[int] = range(90),
    rate: int = RATE,
    layout: str = "mono",
    container: str | None = None,
    options: dict[str, str] | None = None,
    video_options: dict[str, str] | None = None,
    gop: int = 12,
    stamps: Sequence[int] | None = None,
    empty: Sequence[int] = (),
) -> Path:
    """Writes frames that show their number, 30 a second, and sound ``[S]`` or ``[C, S]``, interleaved.

    ``frames`` are the numbers of the frames that there are, ``empty`` those whose packets are emptied; ``stamps`` the
    time stamps, in samples, of the blocks of 1024 samples of the sound (in codecs that leave the blocks as they are).
    """
    with av.open(path, "w", format=container, options=options or {}) as file:
        packets = []
        if video is not None:
            picture = file.add_stream(video, rate=30, options=video_options or {})
            picture.width, picture.height, picture.pix_fmt = 64, 64, "yuvj420p" if video == "mjpeg" else "yuv420p"
            picture.codec_context.time_base, picture.codec_context.gop_size = Fraction(1, 30), gop
            picture.bit_rate = 4_000_000
        if audio is not None and sound is not None:
            heard = file.add_stream(audio, rate=rate, layout=layout)
            heard.bit_rate = 192000
        if video is not None:
            for number in frames:
                frame = av.VideoFrame.from_ndarray(stamp(number), format="rgb24").reformat(format=picture.pix_fmt)
                frame.pts, frame.time_base = number, Fraction(1, 30)
                for packet in picture.encode(frame):
                    packets.append((number / 30, _emptied(packet) if number in empty else packet))
            packets += [(frames[-1] / 30, packet) for packet in picture.encode()]
        if audio is not None and sound is not None:
            planes = np.atleast_2d(sound).astype(np.float32)
            size = heard.codec_context.frame_size or 1024
            convert = av.AudioResampler(heard.codec_context.format.name, layout, rate)
            for index, begin in enumerate(range(0, planes.shape[1], size)):
                block = np.ascontiguousarray(planes[:, begin : begin + size])
                chunk = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
                chunk.sample_rate, chunk.time_base = rate, Fraction(1, rate)
                chunk.pts = begin if stamps is None else stamps[index]
                for converted in convert.resample(chunk):
                    # the resampler would smooth time stamps that jump
                    converted.pts = chunk.pts
                    packets += [(begin / rate, packet) for packet in heard.encode(converted)]
            packets += [(planes.shape[1] / rate, packet) for packet in heard.encode()]
        for _, packet in sorted(packets, key=lambda timed: timed[0]):
            file.mux(packet)
    return path


def turn(path: Path) -> None:
    """Lets an MP4 or MOV file say that its picture was recorded on its side: it is seen turned clockwise."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    turned = [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000]
    data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in turned)
    path.write_bytes(data)


def _emptied(packet: av.Packet) -> av.Packet:
    empty = av.Packet(b"")
    empty.pts, empty.dts, empty.duration = packet.pts, packet.dts, packet.duration
    empty.time_base, empty.stream = packet.time_base, packet.stream
    return empty
