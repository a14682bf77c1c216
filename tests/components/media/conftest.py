"""Media files with known contents, muxed frame by frame."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.components.media.stamped_frames import stamp

Mux = Callable[..., Path]


@pytest.fixture
def mux(tmp_path: Path) -> Mux:
    """Writes a file of stamped frames at given times and, if asked for, sound of any layout at any start."""

    def write(
        name: str,
        frame_times: Sequence[float | Fraction],
        audio: np.ndarray | None = None,
        sample_rate: int = 16000,
        audio_start: float = 0.0,
        audio_codec: str = "aac",
        layout: str = "mono",
        images: Sequence[np.ndarray] | None = None,
        gop: int = 12,
        pixel_aspect: Fraction | None = None,
        video_codec: str = "libx264",
    ) -> Path:
        path = tmp_path / name
        pictures = images or [stamp(index) for index in range(len(frame_times))]
        base = Fraction(1, 90000)
        with av.open(path, "w") as container:
            video = container.add_stream(video_codec, rate=30)
            video.height, video.width, video.pix_fmt = *pictures[0].shape[:2], "yuv420p"
            video.codec_context.time_base = base
            video.codec_context.gop_size = gop
            if video_codec == "libx264":
                video.options = {"crf": "10", "preset": "veryfast"}
            if pixel_aspect:
                video.codec_context.sample_aspect_ratio = pixel_aspect
            sound = None
            if audio is not None:
                sound = container.add_stream(audio_codec, rate=sample_rate, layout=layout)
                sound.bit_rate = 4 * sample_rate * (1 if layout == "mono" else 2)
            for picture, time in zip(pictures, frame_times, strict=True):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = round(time * 90000), base
                container.mux(video.encode(frame))
            container.mux(video.encode())
            if sound is not None and audio is not None:
                planes = np.atleast_2d(audio).astype(np.float32)
                size = sound.codec_context.frame_size or 1024
                offset = round(audio_start * sample_rate)
                wanted = sound.codec_context.format.name
                convert = av.AudioResampler(wanted, layout, sample_rate)
                for begin in range(0, planes.shape[1], size):
                    block = np.ascontiguousarray(planes[:, begin : begin + size])
                    chunk = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
                    chunk.sample_rate, chunk.pts = sample_rate, offset + begin
                    chunk.time_base = Fraction(1, sample_rate)
                    for converted in convert.resample(chunk):
                        container.mux(sound.encode(converted))
                container.mux(sound.encode())
        return path

    return write
