"""One track of an open file: its time stamps, its packets and the ways to a place in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import av
from av.audio.stream import AudioStream
from av.packet import Packet
from av.video.stream import VideoStream

from components.media.opening import MediaFile

StreamT = TypeVar("StreamT", VideoStream, AudioStream)

# How much earlier each further try begins: the next key frames before, and beyond the recovery of any usual encoder.
_BACK_S = (0.0, 1.0, 4.0, 16.0)
# FFmpeg seeks in these by byte rate, which for compressed blocks is off by up to a tenth of a second.
_BYTE_RATE_FORMATS = ("wav", "w64", "aiff", "au", "voc")
# These say the length of each track; elsewhere it is missing, a guess from the bit rate, or that of the longest track.
_MEASURED_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "avi", "mpegts", "wav", "w64", "aiff", "flac", "caf")
# The end is looked for from this long before it on.
_TAIL_S = 1.0
_AT_BEGIN_S = 0.01


class LandedLateError(Exception):
    """A seek ended behind the place asked for."""


@dataclass(frozen=True)
class Track(Generic[StreamT]):
    """A stream of a file, also after the file was begun anew.

    Attributes:
        file: the open file.
        index: the stream's number in it.
        guide: number of another stream by which places in a Matroska file are found. Its list of places is of the
            picture alone: without it, a place in the sound is looked for among those that were read by chance.
    """

    file: MediaFile
    index: int
    guide: int | None = None

    @property
    def stream(self) -> StreamT:
        """The stream as it is open now."""
        return cast(StreamT, self.file.container.streams[self.index])

    @property
    def base_s(self) -> float:
        """Seconds per tick of the time stamps."""
        return float(self.stream.time_base or 0)

    @property
    def begin_s(self) -> float:
        """Time stamp of the first frame or sample."""
        return (self.stream.start_time or 0) * self.base_s

    @property
    def end_s(self) -> float:
        """Time stamp at which the last frame or sample ends.

        Where the header does not say it, the last packets are read; what follows must look for its place again.
        """
        if self.index not in self.file.ends_s:
            self.file.ends_s[self.index] = self._measured_end_s()
        return self.file.ends_s[self.index]

    @property
    def shows_last_frame_on(self) -> bool:
        """True if frames that repeat are left out, also at the end: the last one is shown until the whole file ends."""
        return self.stream.codec_context.name == "theora"

    def packets(self) -> Iterator[Packet[StreamT]]:
        """The packets from the present place on, and an empty one without time stamp at the end."""
        self.file.is_fresh = False
        yield from self.file.container.demux(self.stream)

    def approaches(self, time_s: float) -> Iterator[bool]:
        """Puts the file at or before a time, each turn farther, until the caller is content with what it finds there.

        Args:
            time_s: time stamp in seconds.

        Yields:
            Whether the file now stands at its very beginning: the last turn, and what fails there is truly damaged.
        """
        at_begin = time_s <= self.begin_s + _AT_BEGIN_S
        if not (at_begin and self.file.is_fresh) and not self._seeks_by_byte_rate():
            for back_s in _BACK_S:
                if back_s and time_s - back_s <= self.begin_s:
                    break
                if self._seek(time_s - back_s):
                    yield False
        self.file.restart()
        yield True

    def _seek(self, time_s: float) -> bool:
        """Goes to the last key frame before a time; False where the format refuses that."""
        container = self.file.container
        by_guide = self.guide is not None and container.format.name == "matroska,webm"
        stream = container.streams[cast(int, self.guide) if by_guide else self.index]
        self.file.is_fresh = False
        try:
            # A target before the first packet is right: the one at 0 needs its predecessor, the encoder's priming.
            container.seek(int(time_s / float(stream.time_base or 1)), stream=stream, backward=True)
        except av.error.FFmpegError:
            return False
        return True

    def _seeks_by_byte_rate(self) -> bool:
        coded = not self.stream.codec_context.name.startswith("pcm_")
        return coded and self.file.container.format.name in _BYTE_RATE_FORMATS

    def _measured_end_s(self) -> float:
        stream, container = self.stream, self.file.container
        if stream.duration is not None and container.format.name in _MEASURED_FORMATS:
            return self.begin_s + stream.duration * self.base_s
        rate = stream.average_rate if isinstance(stream, VideoStream) else None
        usual_s = float(1 / rate) if rate else 0.0
        # some containers count their start into their duration, some do not: this is never too early
        last_s = ((container.start_time or 0) + (container.duration or 0)) / av.time_base
        shown_s = last_s if self.shows_last_frame_on else self.begin_s
        for _ in self.approaches(last_s - _TAIL_S):
            end_s = self._packets_end_s(usual_s)
            if end_s is not None:
                return max(end_s, shown_s)
        return shown_s

    def _packets_end_s(self, usual_s: float) -> float | None:
        """Where the packets from here on end; None where there is none."""
        clock_s, end_s = self.begin_s, None
        try:
            for packet in self.packets():
                ticks = packet.pts if packet.pts is not None else packet.dts
                if ticks is None and not packet.size:
                    continue
                clock_s = ticks * self.base_s if ticks is not None else clock_s
                clock_s += packet.duration * self.base_s if packet.duration else usual_s
                end_s = max(clock_s, end_s or clock_s)
        except av.error.FFmpegError:
            # a cut-off file: what is there counts
            return end_s
        return end_s
