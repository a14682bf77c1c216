"""Media files that a published list names, of which some are gone; and which of them are kept for evaluation."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from components.errors import InputError
from datamodules.reading.folder import SOUNDS, VIDEOS, groups_held_out
from datamodules.reading.records import ClipRecord
from datamodules.reading.speech_manifest import RecordsBySplit, text_of

MissingFiles = Literal["skip", "error"]

_log = logging.getLogger("avsync.data")


class ListedMedia:
    """The media files below a folder by their names, to look up what a list names.

    Lists of videos on YouTube are never complete: what was taken down since is not there.

    Args:
        root: the folder; hidden files and folders are passed over.
        audio_only: sounds as well as videos; sounds go first.
        missing: "skip" leaves out what is not there, which is counted and said; "error" refuses it.

    Raises:
        InputError: the folder is not there or holds no media files, or ``missing`` is neither.
    """

    def __init__(self, root: Path, audio_only: bool, missing: MissingFiles) -> None:
        if missing not in ("skip", "error"):
            raise InputError(f"missing_files is {missing!r}; choose from skip and error")
        if not root.is_dir():
            raise InputError(f"the data folder {root} does not exist; set root to the unpacked folder")
        self.root, self.missing = root, missing
        wanted = SOUNDS | VIDEOS if audio_only else VIDEOS
        self._files: dict[str, list[Path]] = {}
        for folder, folders, files in os.walk(root, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                suffix = PurePosixPath(name).suffix.lower()
                if suffix in wanted and not name.startswith("."):
                    self._files.setdefault(name[: -len(suffix)], []).append(Path(folder) / name)
        for paths in self._files.values():
            paths.sort(key=lambda path: path.suffix.lower() not in SOUNDS)
        if not self._files:
            raise InputError(f"{root} holds no media files ({', '.join(sorted(wanted))}); unpack them below it")
        self._listed, self._absent = 0, 0

    def find(self, *stems: str, below: str | None = None, others: Sequence[str] = ()) -> Path | None:
        """The file of the first of these names, without suffix, that is there.

        Args:
            stems: names in the order in which to try them.
            below: name of a folder in which the file lies, at any depth; None for anywhere.
            others: beginnings of folders' names in which another file of that name may lie.

        Raises:
            InputError: there is none, and that is an error.
        """
        self._listed += 1
        paths = (path for stem in stems for path in self._files.get(stem, ()))
        placed = ((path, path.relative_to(self.root).parts[:-1]) for path in paths)
        found = next(
            (
                path
                for path, folders in placed
                if (below is None or below in folders) and not any(name.startswith(tuple(others)) for name in folders)
            ),
            None,
        )
        if found is None:
            if self.missing == "error":
                where = "" if below is None else f" in a folder {below}"
                raise InputError(
                    f"{self.root} has no media file named {' or '.join(stems)} (with any suffix){where}; unpack it, or"
                    " set missing_files to skip"
                )
            self._absent += 1
        return found

    def report(self, listing: Path) -> None:
        """Says how many of the files that were looked for since the last report are not there.

        Raises:
            InputError: none is.
        """
        listed, absent = self._listed, self._absent
        self._listed = self._absent = 0
        if listed and absent == listed:
            other = next(iter(self._files.values()))[0].relative_to(self.root)
            raise InputError(f"none of the {listed} files that {listing} lists is below {self.root}, which has {other}")
        if absent:
            _log.warning(
                "%s lists %d files of which %d are not below %s; they are left out", listing, listed, absent, self.root
            )


def listing_of(root: Path, *names: str) -> Path:
    """The first of these files that is in the folder.

    Raises:
        InputError: none is.
    """
    for name in names:
        if (root / name).is_file():
            return root / name
    raise InputError(f"{root} has no {' and no '.join(names)}; put the published list there")


def published_rows(
    path: Path, columns: Sequence[str], header: bool = True, optional: Sequence[str] = ()
) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and the wanted columns of a published CSV file.

    Args:
        path: the file.
        columns: columns that have to be there; others are not read. Without header, all columns in their order.
        header: whether the first line names the columns.
        optional: columns that are read where they are there.

    Raises:
        InputError: the file cannot be read, columns are missing (those found are named), or there are no rows.
    """
    reader = csv.reader(io.StringIO(text_of(path), newline=""))
    named = [name.strip() for name in next(reader, [])] if header else list(columns)
    if absent := [name for name in columns if name not in named]:
        raise InputError(f"{path} has no column {', '.join(absent)}; it has {', '.join(named) or 'none'}")
    wanted = (*columns, *(name for name in optional if name in named))
    rows = []
    for values in reader:
        if not values:
            continue
        if len(values) < len(named):
            raise InputError(f"{path}, line {reader.line_num}: {len(values)} fields of {', '.join(named)}; repair it")
        fields = dict(zip(named, values, strict=False))
        rows.append((reader.line_num, {name: fields[name].strip() for name in wanted}))
    if not rows:
        raise InputError(f"{path} has no rows")
    return rows


def json_of(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: it is not there or no valid JSON.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    try:
        return json.loads(text_of(path))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); repair it") from error


def held_out(
    records: Iterable[ClipRecord], group: Callable[[ClipRecord], str], share: float, seed: int
) -> RecordsBySplit:
    """Records without split, divided in whole groups (`groups_held_out`).

    Raises:
        InputError: the share is not between 0 and 1, or all records are of one group.
    """
    if not 0 < share < 1:
        raise InputError(f"hold_out is {share}; it must lie between 0 and 1")
    groups: dict[str, list[ClipRecord]] = {}
    for record in records:
        groups.setdefault(group(record), []).append(record)
    total = sum(map(len, groups.values()))
    if len(groups) < 2:
        raise InputError(f"the {total} clips found are of {len(groups)} group and cannot be divided; add others")
    test = groups_held_out(groups, share, seed)
    return {
        "train": [record for name, members in groups.items() if name not in test for record in members],
        "test": [record for name, members in groups.items() if name in test for record in members],
    }


def check_unique(records: Iterable[ClipRecord], source: Path) -> None:
    """Raises an `InputError` where two records have one id."""
    for name, times in Counter(record.id for record in records).items():
        if times > 1:
            raise InputError(f"{source} lists {name} {times} times; remove the others")
