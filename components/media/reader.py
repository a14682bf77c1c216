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

import numpy as np
import torch
from av.video.stream import VideoStream
from PIL import Image
from torch import Tensor

from components.errors import InputError
from components.media.opening import MediaFile, choose_stream, decoding
from components.media.picture import WHITE, Color
from components.media.sound_reader import MAX_MISSING_AUDIO_S, SoundReader
from components.media.track import Track
from components.media.video_decoding import ClipTooShortError, decode_frames, first_shown_size


@dataclass(frozen=True)
class MediaInfo:
    """What is known of a recording without decoding it.

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
        video_track: number of the track among the file's video tracks, from 0; None for the default one, which is
            never a cover picture.
        audio_track: number of the track among the audio tracks of ``sound`` or else ``path``; None for the default.

    Raises:
        InputError: a file is missing, is no media file, is cut off, or has no (such) video (``path``) or audio
            (``sound``) track.
    """

    def __init__(
        self,
        path: str | Path,
        sound: str | Path | None = None,
        video_track: int | None = None,
        audio_track: int | None = None,
    ) -> None:
        self.path = Path(path)
        file = MediaFile(self.path)
        self._sound: SoundReader | None = None
        try:
            self._video: Track[VideoStream] = Track(file, choose_stream(file, "video", video_track))
            if sound is not None:
                self._sound = SoundReader(sound, audio_track)
            elif file.container.streams.audio or audio_track is not None:
                self._sound = SoundReader(self.path, audio_track, self._video)
        except InputError:
            file.close()
            raise
        self._origin_s = self._video.begin_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sound is not None:
            self._sound.close()
        self._video.file.close()

    @property
    def info(self) -> MediaInfo:
        """The header's facts."""
        video = self._video.stream
        fps = float(video.average_rate or 0)
        # looking for the end may open the file anew: the stream of before is closed then
        counted, width, height = video.frames, video.codec_context.width, video.codec_context.height
        duration_s = self._video.end_s - self._origin_s
        return MediaInfo(
            path=self.path,
            duration_s=duration_s,
            fps=fps,
            # MPEG-TS and WebM do not count frames
            num_frames=counted or round(duration_s * fps),
            width=width,
            height=height,
            sample_rate=self._sound.sample_rate if self._sound is not None else None,
            audio_span_s=self._sound.span_s if self._sound is not None else None,
        )

    def shown_size(self) -> tuple[float, float]:
        """Height and width of the picture as it is seen, upright and with square pixels; decodes its first frame.

        Raises:
            InputError: the file is corrupt or has no frame.
        """
        try:
            with decoding(self.path, "picture"):
                return first_shown_size(self._video, self._origin_s)
        except ClipTooShortError:
            raise InputError(f"{self.path} has no frame of its picture; remove it from the list") from None

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
        if num_frames < 1 or height < 1 or width < 1 or not 0 <= start_s < np.inf:
            raise InputError(f"{self.path}: cannot read {num_frames} frames of {height}x{width} from {start_s} s on")
        times = start_s + np.arange(num_frames) / fps
        try:
            with decoding(self.path, "picture"):
                frames = decode_frames(self._video, self._origin_s, times, height, width, background)
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
                " ask for fewer frames or remove it from the list",
                "shorter than a clip",
            ) from None
        return torch.from_numpy(frames)

    def audio(
        self, start_s: float, num_samples: int, sample_rate: int, max_missing_s: float = MAX_MISSING_AUDIO_S
    ) -> Tensor:
        """Sound from ``start_s`` on the picture's clock, mono: float32 ``[num_samples]``, full scale 1.

        Up to ``max_missing_s`` seconds that the track lacks are zeros.

        Raises:
            InputError: no audio track, corrupt data, samples that are NaN or infinite, or more of the sound is missing.
        """
        if self._sound is None:
            raise InputError(f"{self.path} has no audio track; give a recording with sound", "without sound")
        return self._sound.read(start_s, num_samples, sample_rate, max_missing_s)


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


def read_sound(
    path: str | Path, sample_rate: int, max_missing_s: float = MAX_MISSING_AUDIO_S, audio_track: int | None = None
) -> Tensor:
    """The whole sound of an audio or video file: see ``SoundReader.read_all``."""
    with SoundReader(path, audio_track) as sound:
        return sound.read_all(sample_rate, max_missing_s)
