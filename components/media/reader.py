"""Read clips, images and sounds from media files. Picture and sound of a clip share one clock.

Second 0 of a recording is the time stamp of its first video frame. Output frame n is the source frame on screen at
``start_s + n / fps``, sound sample k is what is heard at ``start_s + k / sample_rate``: streams that begin at another
time stamp and the encoder's priming samples are accounted for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
import torch
from av.video.stream import VideoStream
from PIL import Image
from torch import Tensor

from components.errors import InputError
from components.media.audio_decoding import decode_all
from components.media.opening import check_decoder, decoding, open_media
from components.media.sound_reader import SoundReader
from components.media.video_decoding import WHITE, ClipTooShortError, Color, decode_frames


@dataclass(frozen=True)
class MediaInfo:
    """What a recording's header says (nothing is decoded for it).

    Attributes:
        path: the file.
        duration_s: length of the picture in seconds.
        fps: average frames per second of the picture.
        num_frames: number of frames (by duration and rate where the container does not count them).
        width: columns of a coded frame.
        height: rows of a coded frame.
        sample_rate: samples per second of the sound, None without an audio track.
        audio_span_s: begin and end of the sound on the picture's clock, None without an audio track.
    """

    path: Path
    duration_s: float
    fps: float
    num_frames: int
    width: int
    height: int
    sample_rate: int | None
    audio_span_s: tuple[float, float] | None


class MediaReader:
    """An open recording; use it as a context manager.

    Args:
        path: any file FFmpeg can read that has a video track.
        sound: another file that holds the sound, or None for the track in ``path``. Its own second 0 (its first frame
            or, without a picture, its first sample) is the picture's.

    Raises:
        InputError: a file is missing, is no media file, is cut off, or has no video (``path``) or audio (``sound``)
            track.
    """

    def __init__(self, path: str | Path, sound: str | Path | None = None) -> None:
        self.path = Path(path)
        self._container = open_media(self.path)
        videos = self._container.streams.video
        if not videos:
            self._container.close()
            raise InputError(f"{self.path} has no video track; give a file with a picture")
        self._video: VideoStream = videos[0]
        self._sound: SoundReader | None = None
        try:
            check_decoder(self.path, self._video)
            if sound is not None:
                self._sound = SoundReader(sound)
            elif self._container.streams.audio:
                self._sound = SoundReader(self.path, self._container)
        except InputError:
            self._container.close()
            raise
        # Parallelism comes from loader workers; a decoder's own threads only add latency.
        self._video.codec_context.thread_count = 1
        self._origin_s = (self._video.start_time or 0) * float(self._video.time_base or 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sound is not None:
            self._sound.close()
        self._container.close()

    @property
    def info(self) -> MediaInfo:
        """The header's facts."""
        video, container = self._video, self._container
        fps, base = float(video.average_rate or 0), float(video.time_base or 0)
        if video.duration is not None:
            end_s = ((video.start_time or 0) + video.duration) * base
        else:
            end_s = ((container.start_time or 0) + (container.duration or 0)) / av.time_base
        duration_s = end_s - self._origin_s
        return MediaInfo(
            path=self.path,
            duration_s=duration_s,
            fps=fps,
            # MPEG-TS and WebM do not count frames
            num_frames=video.frames or round(duration_s * fps),
            width=video.codec_context.width,
            height=video.codec_context.height,
            sample_rate=self._sound.sample_rate if self._sound is not None else None,
            audio_span_s=self._sound.span_s if self._sound is not None else None,
        )

    def video(
        self, start_s: float, num_frames: int, fps: float, height: int, width: int, background: Color = WHITE
    ) -> Tensor:
        """Frames on screen at ``start_s + n / fps``: uint8 ``[num_frames, 3, height, width]``.

        What is transparent shows ``background``.

        Raises:
            InputError: the file is corrupt, ends before the last frame asked for, or ``fps`` is not positive.
        """
        if not fps > 0:
            raise InputError(f"fps is {fps} for {self.path}; it must be positive")
        if num_frames < 1 or height < 1 or width < 1 or start_s < 0:
            raise InputError(f"{self.path}: cannot read {num_frames} frames of {height}x{width} from {start_s} s on")
        times = start_s + np.arange(num_frames) / fps
        try:
            with decoding(self.path, "picture"):
                frames = decode_frames(self._container, self._video, self._origin_s, times, height, width, background)
        except ClipTooShortError as short:
            asked = f"{start_s:.3f}..{start_s + num_frames / fps:.3f} s"
            promised = self.info.duration_s
            if promised > short.end_s + 1 / fps:
                raise InputError(
                    f"{self.path} is truncated: its picture ends at {short.end_s:.3f} s although its header promises"
                    f" {promised:.3f} s ({asked} was asked for); copy or download it again"
                ) from None
            raise InputError(
                f"{self.path} is too short: its picture ends at {short.end_s:.3f} s but {asked} was asked for;"
                " ask for fewer frames or remove it from the list"
            ) from None
        return torch.from_numpy(frames)

    def audio(self, start_s: float, num_samples: int, sample_rate: int) -> Tensor:
        """Sound from ``start_s`` on the picture's clock: float32 ``[num_samples]`` mono in [-1, 1].

        Up to ``sound_reader.MAX_MISSING_AUDIO_S`` seconds that the track lacks are zeros.

        Raises:
            InputError: no audio track, corrupt data, or more of the sound is missing.
        """
        if self._sound is None:
            raise InputError(f"{self.path} has no audio track; give a recording with sound")
        return self._sound.read(start_s, num_samples, sample_rate)


def probe(path: str | Path) -> MediaInfo:
    """The header's facts of a recording.

    Raises:
        InputError: see ``MediaReader``.
    """
    with MediaReader(path) as media:
        return media.info


def read_video(
    path: str | Path,
    start_s: float,
    num_frames: int,
    fps: float,
    height: int,
    width: int,
    background: Color = WHITE,
) -> Tensor:
    """Frames of a recording: see ``MediaReader.video``."""
    with MediaReader(path) as media:
        return media.video(start_s, num_frames, fps, height, width, background)


def read_audio(path: str | Path, start_s: float, num_samples: int, sample_rate: int) -> Tensor:
    """Sound of a recording on the clock of its picture: see ``MediaReader.audio``."""
    with MediaReader(path) as media:
        return media.audio(start_s, num_samples, sample_rate)


def read_clip(
    path: str | Path, start_s: float, num_frames: int, fps: float, height: int, width: int, sample_rate: int
) -> tuple[Tensor, Tensor]:
    """Picture ``[T, 3, H, W]`` uint8 and sound ``[round(T / fps * sample_rate)]`` float32 of the same span."""
    with MediaReader(path) as media:
        video = media.video(start_s, num_frames, fps, height, width)
        return video, media.audio(start_s, round(num_frames / fps * sample_rate), sample_rate)


def read_image(path: str | Path, height: int, width: int, background: Color = WHITE) -> Tensor:
    """An image (or the first frame of a video) scaled to cover ``height x width``: uint8 ``[3, height, width]``.

    It is turned upright as its EXIF data say.

    Args:
        path: the file.
        height: rows.
        width: columns.
        background: what is seen behind a transparent picture.

    Raises:
        InputError: the file is missing or is no image.
    """
    with MediaReader(path) as media:
        image = media.video(0.0, 1, 1.0, height, width, background)[0]
    # FFmpeg turns pictures, but leaves mirrored ones mirrored
    axes = _MIRRORED.get(_orientation(path))
    return image if axes is None else image.flip(axes)


_EXIF_ORIENTATION = 0x0112
_MIRRORED = {2: 1, 4: 1, 5: 2, 7: 2}
"""EXIF orientation -> axis of ``[3, H, W]`` along which the turned picture is still to be mirrored."""


def _orientation(path: str | Path) -> int:
    try:
        with Image.open(path) as image:
            return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except (OSError, ValueError, TypeError, Image.DecompressionBombError):  # no image, but a video
        return 1


def read_sound(path: str | Path, sample_rate: int) -> Tensor:
    """The whole sound of an audio or video file: float32 ``[S]`` mono in [-1, 1].

    Raises:
        InputError: the file is missing, is no media file, has no audio track or no sample in it.
    """
    path = Path(path)
    container = open_media(path)
    with container:
        if not container.streams.audio:
            raise InputError(f"{path} has no audio track; give a file with sound")
        with decoding(path, "sound"):
            samples = decode_all(container, container.streams.audio[0], sample_rate)
    if not len(samples):
        raise InputError(f"{path} holds no sound at all; give a file with sound")
    return torch.from_numpy(samples)
