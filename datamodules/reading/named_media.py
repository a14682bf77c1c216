"""The files that lists name: do they lie below the data's folder, and are they there?"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

# From so many questions about one folder on, it is listed: one answer of a file server for all of its files.
_ASKED_ONE_BY_ONE = 64


class NamedMedia:
    """Files below one folder.

    Args:
        root: the folder; names are relative to it.
        absolute: whether a name may also be an absolute path, to wherever it leads.
    """

    def __init__(self, root: Path, absolute: bool = False) -> None:
        self.root, self._absolute = root, absolute
        self._below = "" if str(root) == "." else os.path.join(root, "")  # noqa: PTH118  # hundreds of thousands
        self._asked: Counter[str] = Counter()
        self._listed: dict[str, frozenset[str]] = {}

    def leaves(self, name: str) -> bool:
        """Whether a name points out of the folder. Links are followed wherever they lead: they were put there."""
        is_absolute = name.startswith("/")
        if (is_absolute and self._absolute) or not (is_absolute or ".." in name):
            return False
        inside = os.path.normpath(self.place(name))
        return not Path(inside).is_relative_to(os.path.normpath(self.root))

    def place(self, name: str) -> str:
        """Where a name points to."""
        return name if name.startswith("/") else self._below + name

    def is_file(self, place: str) -> bool:
        """Whether there is such a file, as far as is known from the folder's list of names."""
        folder, _, name = place.rpartition("/")
        there = self._listed.get(folder)
        if there is None:
            self._asked[folder] += 1
            if self._asked[folder] < _ASKED_ONE_BY_ONE:
                return Path(place).is_file()
            there = self._listed[folder] = _files_in(Path(place).parent)
        return name in there


def _files_in(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()
