"""Folders that appear whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import InputError
from components.weights.identity import SUMS_FILE, summed_files, write_sums
from components.weights.whole_file import granted_mode

_MAX_NAMED = 5


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new empty folder to write into; it becomes ``target``, with the digests of its files, when the block ends well.

    A target that was written like this is replaced. A block that fails leaves it as it was; what it had written is
    removed.

    Raises:
        InputError: if the target is a file, the working directory or a folder that holds anything else, or its parent
            cannot be written to.
    """
    check_target(target)
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
    write_sums(partial)
    _share(partial)
    # two renames, not one: a folder cannot replace one that is not empty
    if target.exists():
        target.rename(replaced)
    partial.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)


def _share(folder: Path) -> None:
    """Gives every file the permissions that the user's umask grants: some writers' files are for their owner alone."""
    mode = granted_mode(folder)
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)


def check_target(target: Path) -> None:
    """Finds out, before anything slow, whether `whole_folder` may write ``target``.

    Raises:
        InputError: if it is a file, the working directory or a folder that holds anything else.
    """
    if target.name in ("", "..") or (target.exists() and not target.is_dir()):
        what = "is a file" if target.is_file() else "cannot be replaced"
        raise InputError(f"folder '{target}' {what}; give the name of a folder to make")
    foreign = _foreign_files(target)
    if foreign:
        raise InputError(
            f"folder '{target}' holds {', '.join(foreign[:_MAX_NAMED])}{' ...' if len(foreign) > _MAX_NAMED else ''}, "
            "which would be deleted; give the name of a new folder, or empty this one"
        )


def _foreign_files(target: Path) -> list[str]:
    """What is in ``target`` beside the files of which an earlier `whole_folder` has noted the digests."""
    if not target.is_dir():
        return []
    held = {file.relative_to(target).as_posix() for file in target.rglob("*") if not file.is_dir()}
    return sorted(held - {SUMS_FILE} - summed_files(target).keys())
