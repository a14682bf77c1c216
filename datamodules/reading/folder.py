"""A folder of videos, nested as it may be, with captions beside them: in text files, JSON files or one table."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from components.errors import InputError
from datamodules.reading.clip_data_module import Split
from datamodules.reading.named_media import NamedMedia
from datamodules.reading.records import ClipRecord
from datamodules.reading.speech_manifest import COLUMNS, RecordsBySplit, Row, record_of, rows_of, text_of

VIDEOS = frozenset(
    ".mp4 .mov .m4v .mkv .webm .avi .flv .f4v .ts .mts .m2ts .mpg .mpeg .vob .ogv .wmv .asf .3gp .3g2 .mxf .dv".split()  # noqa: SIM905
)
SOUNDS = frozenset(".wav .flac .mp3 .m4a .aac .ogg .oga .opus .ac3 .aiff .aif .wma .caf".split())  # noqa: SIM905
_SIDECARS = (".json", ".txt")
TABLES = ("metadata.jsonl", "metadata.csv", "captions.jsonl", "captions.csv")
FILE_COLUMNS = ("video", "file_name", "path", "file")
"""What tables of the field call the column of files; "file_name" is the hub's."""
_USUAL: Mapping[str, tuple[str, ...]] = {
    "video": FILE_COLUMNS,
    "caption": ("caption", "text", "prompt"),
}

_log = logging.getLogger("avsync.data")


@dataclass(frozen=True)
class HeldOut:
    """Which recordings are kept for evaluation where they do not say so themselves.

    Attributes:
        share: of the clips, in whole groups, on average; at least one group is kept and one left.
        seed: decides which.
        group: a column whose values must not be divided (a scene, a person); None holds the clips of one file together.
        test_list: a file that names the recordings instead, one path a line, with or without suffix, relative to the
            data's folder.
    """

    share: float = 0.1
    seed: int = 0
    group: str | None = None
    test_list: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"hold_out is {self.share}; it must lie between 0 and 1")


@dataclass(slots=True)
class _Said:
    """All that is said of one file: fields under our names, and under the names they came by for grouping."""

    source: str
    fields: dict[str, Any] = field(default_factory=dict)
    named: dict[str, Any] = field(default_factory=dict)


def read_folder(
    root: Path,
    columns: Mapping[str, str],
    prompt: str | None,
    held_out: HeldOut | None,
    audio_only: bool = False,
) -> RecordsBySplit:
    """Records of all media files below a folder, by their split.

    A caption comes from the table in the folder (one of `TABLES`), from ``x.txt`` or from ``x.json`` beside ``x.mp4``.
    Tables and JSON files may hold every column of a manifest (`COLUMNS`); a table names the files that are used.

    Args:
        root: the folder.
        columns: what the table or the JSON files call our columns, where it is not the usual name.
        prompt: caption of clips that have none; None refuses them.
        held_out: the division into training and evaluation where no column ``split`` makes it; None keeps all clips
            for evaluation.
        audio_only: take sounds as well as videos, which then need no picture.

    Raises:
        InputError: the folder holds nothing that can be used, or a table, a text or a caption cannot be; names the file
            and the row.
    """
    if not root.is_dir():
        raise InputError(f"the data folder {root} does not exist; set root to a folder of videos")
    for ours in columns:
        if ours not in COLUMNS:
            raise InputError(f"columns names {ours!r}, which is no column of ours; choose from {', '.join(COLUMNS)}")
    media = _media_files(root, audio_only)
    tables = [root / name for name in TABLES if (root / name).is_file()]
    if len(tables) > 1:
        raise InputError(f"{root} holds {tables[0].name} and {tables[1].name}; keep one of them")
    said = list(_rows_of_table(root, tables[0], columns) if tables else _one_each(root, media, audio_only))
    if tables and (left := len(media) - len({str(row.fields.get("video")) for row in said})) > 0:
        _log.warning(
            "%s does not name %d of the %d media files below it; they are not used", tables[0], left, len(media)
        )
    found: list[tuple[_Said, ClipRecord]] = []
    named = NamedMedia(root)
    for row in said:
        _add_sidecars(named, row, columns)
        found.append((row, record_of(Row(row.source, named, row.fields), audio_only, prompt or "")))
        if prompt is None and not found[-1][1].caption:
            raise InputError(
                f"{found[-1][1].path} has no caption; write it to {found[-1][1].path.with_suffix('.txt').name} beside "
                "it, or set prompt to a caption for all clips that have none"
            )
    _check_unique(found)
    return _by_split(root, found, held_out)


def _media_files(root: Path, audio_only: bool) -> list[str]:
    """Paths of the media files below ``root``, relative to it, sorted; hidden files and folders are passed over."""
    wanted = VIDEOS | SOUNDS if audio_only else VIDEOS
    found, others, unread = [], 0, []
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(folder).relative_to(root).as_posix()
        below = "" if below == "." else f"{below}/"
        told = {_split_suffix(name)[0] for name in files if _split_suffix(name)[1].lower() in _SIDECARS}
        read = {_split_suffix(name)[0] for name in files if _split_suffix(name)[1].lower() in wanted | SOUNDS}
        unread += [below + name for name in files if _split_suffix(name)[0] in told - read and _is_unread(name)]
        for name in files:
            suffix = _split_suffix(name)[1].lower()
            if not name.startswith(".") and suffix in wanted:
                found.append(below + name)
            elif suffix in SOUNDS:
                others += 1
    if not found:
        kinds = ", ".join(sorted(wanted))
        raise InputError(f"{root} holds no media files ({kinds}), in no folder below it either; give another root")
    if unread:
        _log.warning(
            "%s holds %d files with a text of their own that have no suffix of a video, such as %s; they are not used",
            root,
            len(unread),
            min(unread),
        )
    if others:
        _log.warning(
            "%s holds %d sounds beside its videos, which are not used; name them in a table's column audio, or set "
            "audio_only to true",
            root,
            others,
        )
    return sorted(found)


def _is_unread(name: str) -> bool:
    return not name.startswith(".") and _split_suffix(name)[1].lower() not in _SIDECARS


def _split_suffix(name: str) -> tuple[str, str]:
    """Stem and suffix of a file's name, as `pathlib` has them but for hundreds of thousands."""
    return os.path.splitext(name)  # noqa: PTH122


def _one_each(root: Path, media: Sequence[str], audio_only: bool) -> Iterator[_Said]:
    stems = Counter(_split_suffix(name)[0] for name in media)
    for name in media:
        stem, suffix = _split_suffix(name)
        kind = "audio" if audio_only and suffix.lower() in SOUNDS else "video"
        # a.mp4 beside a.mkv: the suffix tells them apart
        yield _Said(str(root / name), {kind: name, "id": stem if stems[stem] == 1 else name})


def _rows_of_table(root: Path, table: Path, columns: Mapping[str, str]) -> Iterator[_Said]:
    for line, fields in rows_of(table):
        source = f"{table}, line {line}"
        row = _Said(source, under_our_names(fields, columns, source), fields)
        for ours in ("video", "audio"):
            name = row.fields.get(ours)
            if not isinstance(name, str) or not name:
                continue
            inside = os.path.normpath(name)
            if inside.startswith(("/", "../")) or inside == os.pardir:
                raise InputError(f"{source}: the row names {name}, which lies outside {root}; move the file into it")
            row.fields[ours] = inside
        yield row


def under_our_names(fields: Mapping[str, Any], columns: Mapping[str, str], source: str) -> dict[str, Any]:
    """What of a row stands in a column of ours, by `COLUMNS`; see `read_folder` for ``columns``.

    Raises:
        InputError: if ``columns`` takes one from where nothing is.
    """
    for ours, theirs in columns.items():
        if theirs not in fields:
            there = ", ".join(map(str, fields))
            raise InputError(f"{source}: columns takes {ours} from {theirs!r}, which is not there; it has {there}")
    return {ours: fields[theirs] for ours, theirs in _names(tuple(fields), tuple(columns.items()))}


@lru_cache(maxsize=64)  # rows of a table have the same names
def _names(there: tuple[str, ...], columns: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """Our names of the columns that are there, and those they go by."""
    named = []
    for ours in COLUMNS:
        usual = _USUAL.get(ours, (ours,))
        found = dict(columns).get(ours) or next((name for name in usual if name in there), None)
        if found is not None:
            named.append((ours, found))
    return named


def _add_sidecars(media: NamedMedia, row: _Said, columns: Mapping[str, str]) -> None:
    """What ``x.json`` and ``x.txt`` beside the file say; a field that is said twice must be said alike."""
    name = row.fields.get("video") or row.fields.get("audio")
    if not isinstance(name, str):
        return  # told as an error where the row is read
    stem = media.place(_split_suffix(name)[0])
    described, captioned = (_beside(media, stem, suffix) for suffix in _SIDECARS)
    if described is not None:
        beside = described
        try:
            content = json.loads(text_of(beside))
        except ValueError as error:
            raise InputError(f"{beside} is not valid JSON ({error}); repair it") from error
        if not isinstance(content, dict):
            raise InputError(f"{beside} holds a {type(content).__name__}; it must hold one object of names and values")
        known = {ours: theirs for ours, theirs in columns.items() if theirs in content}
        for ours, value in under_our_names(content, known, str(beside)).items():
            if ours not in ("id", "video", "audio"):
                _say(row, ours, value, beside)
        row.named = {**content, **row.named}
    if captioned is not None and (text := " ".join(text_of(captioned).split())):
        _say(row, "caption", text, captioned)


def _beside(media: NamedMedia, stem: str, suffix: str) -> Path | None:
    """The file of that suffix, in small or capital letters, beside the one of this stem."""
    return next((Path(stem + case) for case in (suffix, suffix.upper()) if media.is_file(stem + case)), None)


def _say(row: _Said, ours: str, value: Any, source: Path) -> None:
    before = row.fields.get(ours)
    if before not in (None, "") and before != value:
        raise InputError(f"{row.source} gives the {ours} {before!r} and {source} gives {value!r}; keep one of them")
    row.fields[ours] = value


def _check_unique(found: Sequence[tuple[_Said, ClipRecord]]) -> None:
    seen: dict[str, _Said] = {}
    for said, record in found:
        if (before := seen.setdefault(record.id, said)) is not said:
            raise InputError(
                f"{said.source} has the id {record.id!r}, which {before.source} has too; ids must be unique"
            )


def _by_split(root: Path, found: Sequence[tuple[_Said, ClipRecord]], held_out: HeldOut | None) -> RecordsBySplit:
    named = NamedMedia(root)
    splits = [Row(said.source, named, said.fields).split() for said, _ in found]
    if any(split is None for split in splits):
        if any(split is not None for split in splits):
            missing = next(said.source for (said, _), split in zip(found, splits, strict=True) if split is None)
            raise InputError(f"{missing} has no split and others have one; give every clip one, or none")
        if held_out is None:
            splits = ["test"] * len(found)
        elif held_out.test_list:
            splits = list(_listed(root, found, held_out.test_list))
        else:
            splits = list(_drawn(root, found, held_out))
    by_split: RecordsBySplit = {}
    for (_, record), split in zip(found, splits, strict=True):
        by_split.setdefault(split, []).append(record)
    return by_split


def _listed(root: Path, found: Sequence[tuple[_Said, ClipRecord]], test_list: str) -> Iterator[Split]:
    listing = Path(test_list) if Path(test_list).is_file() else root / test_list
    if not listing.is_file():
        raise InputError(f"test_list is {test_list}, but neither that nor {listing} is a file; correct it")
    wanted = {line.strip() for line in text_of(listing).splitlines() if line.strip()}
    names = [{record.id, record.video_id, str(PurePosixPath(record.video_id).with_suffix(""))} for _, record in found]
    if unknown := wanted - set().union(*names):
        raise InputError(f"{listing} names {min(unknown)}, which is not among the clips of {root}; correct the line")
    return iter(["test" if of_clip & wanted else "train" for of_clip in names])


def _drawn(root: Path, found: Sequence[tuple[_Said, ClipRecord]], held_out: HeldOut) -> Iterator[Split]:
    """`groups_held_out` of the clips' groups."""
    groups = []
    for said, record in found:
        if held_out.group is None:
            groups.append(record.video_id)
        elif (value := said.named.get(held_out.group)) in (None, ""):
            raise InputError(
                f"{said.source} has no {held_out.group!r}, by which clips are grouped; give every clip one"
            )
        else:
            groups.append(str(value))
    sizes = Counter(groups)
    if len(sizes) < 2:
        raise InputError(
            f"{root} holds {len(sizes)} group of clips, which cannot be divided into training and evaluation; add "
            "others, or give rows a split"
        )
    test = groups_held_out(sizes, held_out.share, held_out.seed)
    return iter(["test" if group in test else "train" for group in groups])


def groups_held_out(names: Collection[str], share: float, seed: int) -> set[str]:
    """Those of at least two groups that are kept for evaluation.

    Each is drawn by itself, by its name and the seed, so that clips that are added leave the others where they were:
    what a model was trained on is never what it is judged by later. The share is therefore met on average only. One
    group is kept and one left whatever is drawn.
    """
    drawn = {name: int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()) / 2**256 for name in names}
    kept = {name for name, place in drawn.items() if place < share}
    if not kept:
        return {min(drawn, key=drawn.__getitem__)}
    return kept - {max(drawn, key=drawn.__getitem__)} if len(kept) == len(drawn) else kept
