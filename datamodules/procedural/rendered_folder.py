"""Folders that are rendered on first use and found whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_MANIFEST = "manifest.json"


def folder_name(settings: Mapping[str, Any]) -> str:
    """A folder name that no other settings have."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def is_rendered(folder: Path, settings: Mapping[str, Any]) -> bool:
    """True if the folder holds exactly what was rendered with these settings (JSON values, lists for sequences)."""
    manifest = folder / _MANIFEST
    return manifest.is_file() and json.loads(manifest.read_text()) == settings


def render_once(folder: Path, settings: Mapping[str, Any], render: Callable[[Path], None]) -> None:
    """Has ``render`` fill a folder unless that was done; nobody ever sees a part of it under its final name.

    Processes that start together take turns: the first renders, the others find the result.

    Args:
        folder: where the result belongs.
        settings: everything it depends on; kept in its ``manifest.json``.
        render: fills the new, empty folder that it is given.
    """
    if is_rendered(folder, settings):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(folder.with_name(f".{folder.name}.lock")):
        # another process may have rendered while this one waited for its turn
        if is_rendered(folder, settings):
            return
        partial = folder.with_name(f".{folder.name}.part")
        # what a killed process left, or a folder without its manifest
        for left_over in (partial, folder):
            if left_over.exists():
                shutil.rmtree(left_over)
        partial.mkdir()
        render(partial)
        # last, so that a folder with a manifest is whole
        (partial / _MANIFEST).write_text(json.dumps(settings, indent=1))
        partial.rename(folder)


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Holds a lock that the system releases even when the process is killed."""
    # the lock file stays: one that is removed and made anew could be held twice
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
