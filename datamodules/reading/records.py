"""What a list of recordings says about each of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datamodules.reading.face_boxes import FaceBoxes


@dataclass(frozen=True, slots=True)  # there may be hundreds of thousands
class ClipRecord:
    """One recording of a data set.

    Attributes:
        id: unique name within the set.
        path: the media file.
        caption: text prompt.
        video_id: name of the recording for statistics; records cut from one recording share it.
        onsets: true onset times in seconds on the recording's clock, or None where unknown.
        transcript: spoken words, or None.
        sound: the file with the sound if that is not ``path`` itself; both begin at the same moment.
        span_s: begin and end in seconds of the part that belongs to the record, or None for the whole recording.
        speaker: name of the voice, or None.
        reference: a file with another utterance of the same voice, or None.
        scene: what the acoustic scene is, or None where the caption says it.
        other_captions: what else it was called; in training one of ``caption`` and these is drawn, in evaluation it is
            ``caption``.
        language: of the transcript (``en``, ``zh``), or None.
        subset: the part of a benchmark it belongs to, which is also reported apart, or None.
        face_boxes: where the face is (`datamodules.reading.face_boxes`), or None where unknown.
    """

    id: str
    path: Path
    caption: str
    video_id: str
    onsets: tuple[float, ...] | None = None
    transcript: str | None = None
    sound: Path | None = None
    span_s: tuple[float, float] | None = None
    speaker: str | None = None
    reference: Path | None = None
    scene: str | None = None
    other_captions: tuple[str, ...] = ()
    language: str | None = None
    subset: str | None = None
    face_boxes: FaceBoxes | None = None
