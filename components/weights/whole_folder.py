"""Folders that appear whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import InputError


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new empty folder to write into; it becomes ``target``, replacing one that is there, when the block ends well.

    A block that fails leaves the target as it was; what it had written is removed.

    Raises:
        InputError: if the target is a file or the working directory, or its parent cannot be written to.
    """
    if target.name in ("", "..") or (target.exists() and not target.is_dir()):
        what = "is a file" if target.is_file() else "cannot be replaced"
        raise InputError(f"folder '{target}' {what}; give the name of a folder to make")
    partial, replaced = (target.with_name(f".{target.name}.{suffix}") for suffix in ("part", "old"))
    for leftover in (partial, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"folder '{target}' cannot be made ({error.strerror}); give another") from None
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    # two renames, not one: a folder cannot replace one that is not empty
    if target.exists():
        target.rename(replaced)
    partial.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)
