"""Manifests: one row per clip, as JSON lines or CSV. A video and a caption are enough."""

from __future__ import annotations

import codecs
import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.errors import InputError
from datamodules.reading.clip_data_module import Split
from datamodules.reading.face_boxes import read_face_boxes
from datamodules.reading.named_media import NamedMedia
from datamodules.reading.records import ClipRecord

# "reference_image" is for other tools: it is allowed but not read.
COLUMNS = (
    *("id", "video", "audio", "start", "end", "caption", "audio_caption", "transcript", "language", "speaker"),
    *("reference_image", "reference_audio", "onsets", "split", "face_boxes", "subset", "recording"),
)
_SPLITS: dict[str, Split] = {"train": "train", "val": "val", "test": "test"}

RecordsBySplit = dict[Split | None, list[ClipRecord]]


def read_manifest(
    path: Path,
    audio_only: bool = False,
    default_caption: str = "",
    ignore_columns: Sequence[str] = (),
    media_root: Path | None = None,
) -> RecordsBySplit:
    """Records of a manifest by their split (None where the manifest does not say).

    Args:
        path: a ``.jsonl`` file of one object per line, or a ``.csv`` file with a header.
        audio_only: rows then need an audio file or a video whose sound is used, and their ``audio_caption`` goes before
            their ``caption``.
        default_caption: for rows without caption.
        ignore_columns: columns that may be there and are not read, none of ``COLUMNS`` or one that means something
            else here.
        media_root: the folder that media paths are relative to and must lie in; None takes the manifest's, and
            absolute paths as they are.

    Raises:
        InputError: the file or a row cannot be used; names file and line.
    """
    found: RecordsBySplit = {}
    seen: dict[str, int] = {}
    media = NamedMedia(media_root or path.parent, absolute=media_root is None)
    known, ignored, name = set(COLUMNS), set(ignore_columns), str(path)
    for line, fields in rows_of(path):
        if ignored:
            fields = {column: value for column, value in fields.items() if column not in ignored}
        row = Row(f"{name}, line {line}", media, fields)
        if not known.issuperset(fields):
            unknown = next(column for column in fields if column not in known)
            raise row.error(f"has the unknown column {unknown!r}; name it in ignore_columns or correct it")
        record = record_of(row, audio_only, default_caption)
        if record.id in seen:
            raise row.error(f"repeats the id {record.id!r} of line {seen[record.id]}; ids must be unique")
        seen[record.id] = line
        found.setdefault(row.split(), []).append(record)
        if None in found and len(found) > 1:
            raise row.error("and others disagree on whether rows have a split; give every row one, or none")
    if not found:
        raise InputError(f"{path} has no rows; it must hold one row per clip")
    return found


class Row:
    """What is said of one clip; its fields check themselves.

    Args:
        source: where it is said, for errors.
        media: the files it may name.
        fields: by `COLUMNS`; null and empty texts count as absent, for CSV has no null.
    """

    def __init__(self, source: str, media: NamedMedia, fields: Mapping[str, Any]) -> None:
        self.source, self.media = source, media
        self.fields = fields if None not in (held := fields.values()) and "" not in held else _without_empty(fields)

    def error(self, reason: str) -> InputError:
        """To raise: the row and what is wrong with it."""
        return InputError(f"{self.source}: the row {reason}")

    def split(self) -> Split | None:
        """The split, if it says so."""
        named = self.text("split")
        split = None if named is None else _SPLITS.get(named)
        if named is not None and split is None:
            raise self.error(f"has the split {named!r}; it must be train, val or test")
        return split

    def text(self, name: str) -> str | None:
        """A field that is text."""
        value = self.fields.get(name)
        if value is None or type(value) is str:
            return value
        # ids of digits alone are numbers in JSON; ``bool`` is a kind of ``int`` in Python
        if name in ("id", "speaker") and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise self.error(f"has {value!r} as {name}; it must be text")

    def file(self, name: str) -> Path | None:
        """A field that names a file, which is there and not elsewhere."""
        value = self.text(name)
        if value is None:
            return None
        if self.media.leaves(value):
            raise self.error(
                f"names {value} as {name}, which lies outside {self.media.root}; move the file into it, or set "
                "media_root to a folder above it where the data set has that"
            )
        place = self.media.place(value)
        # asked once more before a file is said to be missing: some file systems know several spellings of a name
        if not self.media.is_file(place) and not Path(place).is_file():
            raise self.error(f"names {value} as {name} but {place} does not exist")
        return Path(place)

    def seconds(self, name: str) -> float | None:
        """A field that is a time from 0 on."""
        value = self.fields.get(name)
        return None if value is None else self._second(name, value)

    def list_of_seconds(self, name: str) -> tuple[float, ...] | None:
        """A JSON list or, in CSV, numbers with spaces between; an empty list is known to hold none."""
        value = self.fields.get(name)
        if isinstance(value, str):
            # CSV has no lists: brackets and commas are allowed, not needed
            value = value.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
        if value is None:
            return None
        if not isinstance(value, list):
            raise self.error(f"has {value!r} as {name}; it must be a list of seconds")
        return tuple(sorted(self._second(name, item) for item in value))

    def _second(self, name: str, value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or number < 0:
            raise self.error(f"has {value!r} in {name}; it must be seconds from 0 on")
        return number


def _without_empty(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None and value != ""}


def record_of(row: Row, audio_only: bool, default_caption: str) -> ClipRecord:
    """The recording a row describes; its id is the path of its file, without the suffix, where it has none of its own.

    Args:
        row: what is said of it.
        audio_only: see `read_manifest`.
        default_caption: see `read_manifest`.

    Raises:
        InputError: a field cannot be used; names the row.
    """
    video, audio = row.file("video"), row.file("audio")
    name = row.text("id") or _name_of_file(row)
    caption, scene = row.text("caption"), row.text("audio_caption")
    if audio_only:
        path, sound = audio or video, None
        if path is None:
            raise row.error(f"({name}) has neither audio nor video; name a file with its sound")
        captions = (scene, caption)
    else:
        path, sound = video, audio
        if path is None:
            raise row.error(f"({name}) has no video; remove it, or set audio_only to true to use the sound of all rows")
        captions = (caption, scene)
    start_s, end_s = row.seconds("start"), row.seconds("end")
    span = None
    if start_s is not None or end_s is not None:
        span = (start_s or 0.0, math.inf if end_s is None else end_s)
        if span[1] <= span[0]:
            raise row.error(f"({name}) ends at {span[1]:g} s, not after its start at {span[0]:g} s; correct it")
    return ClipRecord(
        id=name,
        path=path,
        caption=next((said for said in captions if said is not None), default_caption),
        video_id=str(row.text("recording") or row.text("video") or row.text("audio")),
        onsets=row.list_of_seconds("onsets"),
        transcript=row.text("transcript"),
        sound=sound,
        span_s=span,
        speaker=row.text("speaker"),
        reference=row.file("reference_audio"),
        scene=scene,
        language=row.text("language"),
        subset=row.text("subset"),
        face_boxes=None if audio_only else read_face_boxes(row.fields.get("face_boxes"), row.error),
    )


def _name_of_file(row: Row) -> str:
    file = row.text("video") or row.text("audio")
    if file is None:
        raise row.error("has neither id nor video nor audio; name a file")
    start_s = row.seconds("start")  # rows that cut one recording
    stem = os.path.splitext(os.path.normpath(file))[0]  # noqa: PTH122  # quicker, for hundreds of thousands
    return stem if start_s is None else f"{stem}_{start_s:g}s"


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and fields of all rows of a ``.jsonl`` or ``.csv`` file.

    Raises:
        InputError: the file cannot be used; names the line.
    """
    if not path.is_file():
        raise InputError(f"the manifest {path} does not exist; set root to a .jsonl or .csv file or a data folder")
    if path.suffix == ".jsonl":
        yield from _json_rows(path)
    elif path.suffix == ".csv":
        yield from _csv_rows(path)
    else:
        raise InputError(f"the manifest {path} is neither .jsonl nor .csv; rename or convert it")


def text_of(path: Path) -> str:
    """A text file in UTF-8, with or without byte order mark, or in UTF-16 with one.

    Raises:
        InputError: it is neither.
    """
    content = path.read_bytes()
    try:
        return content.decode(_encoding(content))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is neither UTF-8 nor UTF-16 with a byte order mark (byte {error.start}); save it as UTF-8"
        ) from None


def _encoding(begin: bytes) -> str:
    return "utf-16" if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def _lines_of(path: Path, newline: str) -> Iterator[str]:
    """The lines of a text file, as many at a time as are needed; for the rest see `text_of`."""
    with path.open("rb") as file:
        encoding = _encoding(file.read(2))
    try:
        with path.open(encoding=encoding, newline=newline) as lines:
            yield from lines
    except UnicodeDecodeError:
        text_of(path)  # knows the byte in the file, and raises


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # not `splitlines`, which also ends lines at characters that JSON strings may hold
    for number, line in enumerate(_lines_of(path, newline="\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not valid JSON ({error}); repair the row") from error
        if not isinstance(fields, dict):
            raise InputError(f"{path}, line {number}: a {type(fields).__name__}; every row must be one JSON object")
        yield number, fields


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv.DictReader(_lines_of(path, newline=""), strict=True)
    try:
        for fields in rows:
            # DictReader keeps surplus fields under None, and gives None for those that are missing
            if None in fields or None in fields.values():
                held = sum(value is not None for name, value in fields.items() if name is not None)
                held += len(fields.get(None) or [])
                raise InputError(
                    f"{path}, line {rows.line_num}: {held} fields, but the header names"
                    f" {len(rows.fieldnames or [])}; quote texts with commas"
                )
            yield rows.line_num, fields
    except csv.Error as error:
        raise InputError(f"{path} is not valid CSV after line {rows.line_num} ({error}); repair it") from error
