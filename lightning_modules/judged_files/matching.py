"""Which generated file belongs to which clip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from callbacks.report.clip_videos import file_stem
from components.errors import InputError
from components.weights.pretrained import located
from datamodules.reading.folder import FILE_COLUMNS, TABLES, VIDEOS
from datamodules.reading.speech_manifest import rows_of

_MOST_NAMED = 5


def listed_files(root: str) -> dict[Path, str]:
    """Generated files, sorted, and what each is called: its id in a table, else its path without suffix.

    Args:
        root: a folder, nested as it may be, with or without a table (``metadata.jsonl`` ...); or a manifest of files
            (``.jsonl`` or ``.csv``) with a column ``video`` (or ``file_name``, ``path``, ``file``) and, where names of
            files do not say it, ``id``.

    Raises:
        InputError: it does not exist, holds no videos, or a row cannot be used.
    """
    place = located(root)
    if not place.exists():
        raise InputError(f"the generated files '{root}' do not exist: '{place}' does not exist; give their folder")
    if place.is_file():
        return dict(_of_table(place))
    tables = [place / name for name in TABLES if (place / name).is_file()]
    if tables:
        return dict(_of_table(tables[0]))
    files = sorted(file for file in place.rglob("*") if _is_video(file.relative_to(place)) and file.is_file())
    if not files:
        raise InputError(f"{place} holds no videos ({', '.join(sorted(VIDEOS))}); give the folder of generated files")
    return {file: file.relative_to(place).with_suffix("").as_posix() for file in files}


def _is_video(name: Path) -> bool:
    return name.suffix.lower() in VIDEOS and not any(part.startswith(".") for part in name.parts)


def _of_table(table: Path) -> Iterator[tuple[Path, str]]:
    for line, row in rows_of(table):
        name = next((row[column] for column in FILE_COLUMNS if row.get(column)), None)
        if not isinstance(name, str):
            raise InputError(f"{table}, line {line}: the row names no file; give it a column {FILE_COLUMNS[0]}")
        file = table.parent / name
        if not file.is_file():
            raise InputError(f"{table}, line {line}: {file} does not exist; correct the row or remove it")
        named = row.get("id")  # which may be the number 0
        yield file, str(PurePosixPath(name).with_suffix("") if named in (None, "") else named)


def matched(root: str, files: dict[Path, str], clips: Sequence[str], ignore_others: bool) -> dict[str, Path]:
    """The file of each clip.

    A file belongs to the clip with its name; to the one whose name became its name where files may not have it (as
    ``avsync predict`` writes them); or, where no other clip's last part is the same, to the one whose name is the end
    of its own or the other way round (clip ``dog/12``: ``12.mp4`` and ``made/dog/12.mp4``, but not ``cat/12.mp4``).

    Args:
        root: where the files are, for errors.
        files: file -> what it is called (`listed_files`).
        clips: names of the clips.
        ignore_others: whether files of no clip are passed over.

    Raises:
        InputError: a clip has no file or two, or a file no clip; names them.
    """
    named: dict[str, list[Path]] = {}
    whole: dict[str, list[Path]] = {}
    for file, name in files.items():
        whole.setdefault(name, []).append(file)
        for key in {name, PurePosixPath(name).name}:
            named.setdefault(key, []).append(file)
    ends = Counter(PurePosixPath(clip).name for clip in clips)
    by_name = {clip: [file for key in {clip, file_stem(clip)} for file in whole.get(key, ())] for clip in clips}
    # a file that bears a clip's whole name is no other clip's, whatever it ends in
    taken = {file for candidates in by_name.values() for file in candidates}
    found: dict[str, Path] = {}
    for clip in clips:
        end = PurePosixPath(clip).name
        candidates = by_name[clip] or [file for file in named.get(file_stem(clip), ()) if file not in taken]
        if not candidates and ends[end] == 1:
            candidates = [file for file in named.get(end, ()) if file not in taken and _same_end(clip, files[file])]
        if len(candidates) > 1:
            both = " and ".join(map(str, sorted(candidates)[:2]))
            raise InputError(f"clip {clip} has two files, {both}; leave one of them in {root}")
        if candidates:
            found[clip] = candidates[0]
    if missing := [clip for clip in clips if clip not in found]:
        have = f"; its files are called {listing(sorted(files.values()))}" if not found else ""
        raise InputError(
            f"{root} has no file for {len(missing)} of {len(clips)} clips: {listing(missing)}{have}; name files after "
            "the clips, or give a .jsonl file of rows with id and video"
        )
    used = set(found.values())
    if (others := [str(file) for file in files if file not in used]) and not ignore_others:
        belong = "1 file that belongs" if len(others) == 1 else f"{len(others)} files that belong"
        raise InputError(
            f"{root} has {belong} to no clip: {listing(others)}; remove what is too much, or set "
            "--model.other_files ignore"
        )
    return found


def _same_end(first: str, second: str) -> bool:
    """Whether one of two paths is the end of the other, part by part."""
    pairs = zip(reversed(PurePosixPath(first).parts), reversed(PurePosixPath(second).parts), strict=False)
    return all(one == other for one, other in pairs)


def listing(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
