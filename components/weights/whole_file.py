"""Files that appear whole or not at all, whatever kills the process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(target: Path) -> Iterator[BinaryIO]:
    """A stream to write into; what is written becomes ``target``, replacing a file there, when the block ends well.

    It is written beside the target under a dot-name and is on the disk before it gets its name. A block that fails
    leaves the target as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # beside the target: a rename across file systems would be a copy
    partial = target.with_name(f".{target.name}.part")
    try:
        with partial.open("wb") as stream:
            yield stream
            sync_stream(stream)
        partial.replace(target)
    # KeyboardInterrupt and SystemExit too: no half file stays behind
    except BaseException:
        with suppress(OSError):  # a disk that has become read-only: the first error says more
            partial.unlink(missing_ok=True)
        raise
    # and the name itself, which belongs to the folder
    sync_folder(target.parent)


def granted_mode(folder: Path) -> int:
    """Permissions that the user's umask grants a new file in ``folder``: some libraries' are for their owner alone."""
    sample = folder / f".permissions.{os.getpid()}.part"
    sample.touch()
    try:
        return sample.stat().st_mode
    finally:
        sample.unlink(missing_ok=True)


def sync_stream(stream: BinaryIO) -> None:
    """Wait until what was written is on the disk.

    A rename that reaches the disk before the data would leave an empty file after a power cut.
    """
    stream.flush()
    os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
