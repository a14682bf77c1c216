"""Write clips so that reading them gives back every pixel and every sample."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from torch import Tensor

from components.errors import InputError

LOSSLESS_SUFFIX = ".mov"
"""QuickTime: the only one of the usual containers that keeps float samples and counts time in frames and samples."""

_PCM_BLOCK = 4096


def write_lossless(
    path: Path, video: Tensor, fps: float, audio: Tensor | None = None, sample_rate: int = 16000
) -> None:
    """Writes one clip as H.264 in RGB at quantiser 0 with sound in 32-bit floats; whole or not at all.

    `MediaReader` reads the same numbers back at the file's own size and rates. FFmpeg's players show it; most browsers
    do not.

    Args:
        path: target ``.mov``; its folder is made.
        video: uint8 ``[T, 3, H, W]``.
        fps: frames per second.
        audio: float ``[S]`` mono, of any range.
        sample_rate: samples per second of ``audio``.

    Raises:
        InputError: no frames, another suffix, or ``fps`` not positive.
    """
    frames = video.detach().cpu().numpy()
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"video is {frames.dtype} {frames.shape}; uint8 [T, 3, H, W] is needed")
    if not len(frames) or not fps > 0 or path.suffix != LOSSLESS_SUFFIX:
        raise InputError(
            f"cannot write {len(frames)} frames at {fps} a second to {path}; give at least one, a positive rate and "
            f"a name that ends in {LOSSLESS_SUFFIX}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part{LOSSLESS_SUFFIX}")
    try:
        with av.open(partial, "w", format="mov") as container:
            # 24000/1001 and its like stay exact
            picture = container.add_stream("libx264rgb", rate=Fraction(fps).limit_denominator(1001))
            picture.width, picture.height, picture.pix_fmt = frames.shape[3], frames.shape[2], "bgr0"
            picture.options = {"qp": "0", "preset": "veryfast"}
            picture.codec_context.thread_count = 1  # files of the same clip are the same on every machine
            sound = None if audio is None else container.add_stream("pcm_f32le", rate=sample_rate, layout="mono")
            for index, image in enumerate(np.ascontiguousarray(frames.transpose(0, 2, 3, 1))):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="bgr0")
                frame.pts, frame.time_base = index, 1 / picture.codec_context.framerate
                container.mux(picture.encode(frame))
            container.mux(picture.encode())
            if sound is not None and audio is not None:
                samples = audio.detach().cpu().float().numpy()
                for begin in range(0, len(samples), _PCM_BLOCK):
                    block = av.AudioFrame.from_ndarray(
                        np.ascontiguousarray(samples[None, begin : begin + _PCM_BLOCK]), format="flt", layout="mono"
                    )
                    block.sample_rate, block.pts, block.time_base = sample_rate, begin, Fraction(1, sample_rate)
                    container.mux(sound.encode(block))
                container.mux(sound.encode())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
