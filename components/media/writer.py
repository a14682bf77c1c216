"""Write clips as mp4 (H.264 + AAC) and sounds as wav."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor

from components.errors import InputError

_AAC_BLOCK = 1024
_MPEG4_AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)


def write_mp4(
    path: str | Path,
    video: Tensor,
    fps: float,
    audio: Tensor | None = None,
    sample_rate: int = 16000,
    crf: float = 18.0,
    preset: str = "veryfast",
    audio_bit_rate: int = 160_000,
) -> None:
    """Writes one clip; picture and sound both begin at 0 s and no partial file is ever seen under ``path``.

    Args:
        path: target ``.mp4``; its folder is made.
        video: uint8 ``[T, 3, H, W]``, H and W even (4:2:0 colour).
        fps: frames per second.
        audio: float ``[S]`` mono; values beyond [-1, 1] are clipped.
        sample_rate: samples per second of ``audio``; one of the rates of AAC.
        crf: H.264 quality, 0 (lossless) to 51.
        preset: x264's speed preset.
        audio_bit_rate: bits per second of the sound, at most 4 per sample.

    Raises:
        InputError: odd or empty picture, ``fps`` not positive, or a rate AAC does not know.
    """
    path = Path(path)
    frames = video.detach().cpu().numpy()
    _check_video(path, frames, fps)
    if audio is not None and sample_rate not in _MPEG4_AAC_RATES:
        raise InputError(f"{path}: AAC has no sample rate of {sample_rate} Hz; use one of {_MPEG4_AAC_RATES}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part.mp4")
    try:
        # faststart: the index comes first, so a browser can play while it loads.
        with av.open(partial, "w", format="mp4", options={"movflags": "+faststart"}) as container:
            # 24000/1001 and its like stay exact
            picture = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            picture.width, picture.height, picture.pix_fmt = frames.shape[3], frames.shape[2], "yuv420p"
            picture.options = {"crf": f"{crf:g}", "preset": preset}
            # Players guess the matrix of untagged files by their size; say what the conversion below uses.
            picture.codec_context.colorspace = Colorspace.ITU601
            picture.codec_context.color_range = ColorRange.MPEG
            if frames.shape[2] * frames.shape[3] < 256 * 256:
                picture.codec_context.thread_count = 1  # starting threads costs more than such pictures
                # x264's macroblock tree reads beyond pictures of less than eight macroblocks: with it, one file in
                # thirty would differ from the same clip written again
                picture.options = {**picture.options, "mbtree": "0"}
            sound = None
            if audio is not None:
                # The "fast" coder is at this bit rate more exact than the default and several times as quick. Noise
                # substitution would make the decoded sound depend on where decoding began.
                options = {"aac_coder": "fast", "aac_pns": "0"}
                sound = container.add_stream("aac", rate=sample_rate, layout="mono", options=options)
                # More than 4 bits a sample only costs time: the coding error is 50 dB down already.
                sound.bit_rate = min(audio_bit_rate, 4 * sample_rate)
            _encode_video(container, picture, frames)
            if sound is not None and audio is not None:
                _encode_audio(container, sound, audio.detach().cpu().float().clamp(-1, 1).numpy(), sample_rate)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_wav(path: str | Path, audio: Tensor, sample_rate: int) -> None:
    """Writes float ``[S]`` mono in [-1, 1] (clipped) as 16-bit PCM; the file appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part.wav")
    # 32767, not 32768: +1 must fit
    pcm = (audio.detach().cpu().double().clamp(-1, 1).numpy() * 32767.0).round().astype("<i2")
    try:
        with wave.open(str(partial), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(sample_rate)
            file.writeframes(pcm.tobytes())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _check_video(path: Path, frames: np.ndarray, fps: float) -> None:
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"video is {frames.dtype} {frames.shape}; uint8 [T, 3, H, W] with T > 0 is needed")
    height, width = frames.shape[2:]
    if height % 2 or width % 2 or not height or not width:
        raise InputError(f"{path}: H.264 with 4:2:0 colour needs even sizes, not {height}x{width}; crop or resize")
    if not fps > 0:
        raise InputError(f"{path}: fps is {fps}; it must be positive")


def _encode_video(container: OutputContainer, stream: VideoStream, frames: np.ndarray) -> None:
    to_yuv = VideoReformatter()
    interleaved = np.ascontiguousarray(frames.transpose(0, 2, 3, 1))
    for index, image in enumerate(interleaved):
        rgb = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = to_yuv.reformat(
            rgb, format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG, threads=1
        )
        frame.pts, frame.time_base = index, 1 / stream.codec_context.framerate
        container.mux(stream.encode(frame))
    container.mux(stream.encode())  # flush: the encoder holds frames back


def _encode_audio(container: OutputContainer, stream: AudioStream, samples: np.ndarray, sample_rate: int) -> None:
    # The encoder's priming block gets a negative time stamp and an edit list, so sample 0 plays at 0 s.
    for begin in range(0, len(samples), _AAC_BLOCK):
        block = np.ascontiguousarray(samples[None, begin : begin + _AAC_BLOCK])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, begin, Fraction(1, sample_rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
