"""What is known of generated files before they are read: what their headers and their first frames say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.errors import InputError
from components.media.clock import ClipShape
from components.media.reader import MediaInfo, MediaReader
from components.media.sound_reader import MAX_MISSING_AUDIO_S
from lightning_modules.judged_files.matching import listing

_SAME_RATE = 0.01
"""Frames per second by which rates may differ: headers round."""
_SAME_LENGTH = 0.75
"""Of a frame, by which lengths may differ."""


@dataclass(frozen=True)
class Header:
    """What is known of a file.

    Attributes:
        info: what its header says.
        height: rows of the picture as it is seen: upright, with square pixels, which the first frame alone tells.
        width: its columns.
    """

    info: MediaInfo
    height: int
    width: int


def headers(files: Iterable[Path]) -> dict[Path, Header]:
    """What is known of the files; of each the first frame alone is decoded.

    Raises:
        InputError: one is no video, is cut off or has no frame.
    """
    return {file: _header(file) for file in files}


def _header(file: Path) -> Header:
    with MediaReader(file) as media:
        height, width = (max(1, round(side)) for side in media.shown_size())
        return Header(media.info, height, width)


def shape_of(found: Mapping[Path, Header], sample_rate: int | None = None) -> ClipShape:
    """What the clips look like by the first file: what the real clips are then read as.

    Args:
        found: of at least one file.
        sample_rate: of the real clips' sound; None takes the file's, and 16 kHz where it has none.
    """
    first = next(iter(found.values()))
    info = first.info
    num_frames, rate = round(info.duration_s * info.fps), sample_rate or info.sample_rate or 16_000
    return ClipShape(num_frames, info.fps, first.height, first.width, rate)


def check_headers(root: str, found: Mapping[Path, Header], clip: ClipShape, own_sound: bool, own_size: bool) -> None:
    """Refuses files that would be judged as something that they are not.

    Args:
        root: where they are.
        found: what is known of them.
        clip: what clips of the data look like.
        own_sound: whether the files' sound is judged, not that of the real clips.
        own_size: whether pictures are judged at the size of the files.

    Raises:
        InputError: rate or length are not those of the clips, sizes or rates of sound differ, or sound is missing;
            names the files.
    """
    infos = {file: header.info for file, header in found.items()}
    rates = [f"{file} ({info.fps:g})" for file, info in infos.items() if abs(info.fps - clip.fps) > _SAME_RATE]
    _refuse(rates, root, f"with another rate than the clips' {clip.fps:g} frames a second", "set --clip.fps to it")
    if clip.min_frames is None:
        slack_s = _SAME_LENGTH / clip.fps
        lengths = [
            f"{file} ({round(info.duration_s * info.fps)} frames)"
            for file, info in infos.items()
            if abs(info.duration_s - clip.duration_s) > slack_s
        ]
        fix = "set --clip.num_frames to theirs, or generate them anew"
        _refuse(lengths, root, f"of another length than the clips' {clip.num_frames} frames", fix)
    if own_size:
        first = next(iter(found.values()))
        sizes = [
            f"{file} ({header.height}x{header.width})"
            for file, header in found.items()
            if (header.height, header.width) != (first.height, first.width)
        ]
        fix = "set --model.size reference to scale all to the clips'"
        _refuse(sizes, root, f"of another size than the first one's {first.height}x{first.width}", fix)
    if own_sound:
        _check_sounds(root, infos, clip)


def _check_sounds(root: str, infos: Mapping[Path, MediaInfo], clip: ClipShape) -> None:
    fix = "set --model.sound reference where it is the real clips' sound that drove them"
    mute = [str(file) for file, info in infos.items() if info.audio_span_s is None]
    _refuse(mute, root, "without sound", fix)
    first = next(iter(infos.values())).sample_rate
    others = [f"{file} ({info.sample_rate} Hz)" for file, info in infos.items() if info.sample_rate != first]
    _refuse(others, root, f"with another rate of sound than the first one's {first} Hz", "resample them alike")
    short = []
    for file, info in infos.items():
        begin_s, end_s = info.audio_span_s or (0.0, 0.0)
        lacking_s = max(0.0, begin_s) + max(0.0, min(clip.duration_s, info.duration_s) - end_s)
        if lacking_s > MAX_MISSING_AUDIO_S:
            short.append(f"{file} (lacks {lacking_s:.2f} s)")
    _refuse(short, root, "whose sound does not cover the picture", fix)


def _refuse(files: Sequence[str], root: str, what: str, fix: str) -> None:
    if files:
        raise InputError(f"{root} has {len(files)} files {what}: {listing(files)}; {fix}")
