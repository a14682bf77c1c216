"""Files with the weights of public judges: on this disk or not at all, because nothing is downloaded unasked."""

from __future__ import annotations

from pathlib import Path

from components.errors import InputError
from components.weights.digests import Sha256
from components.weights.pretrained import builds_shapes_only, find_file


def needed_file(name: str | Path, sha256: Sha256, owner: str, fix: str) -> Path:
    """The file meant by ``name`` (see `find_file`); it need not be there where only shapes are built.

    Args:
        name: its path.
        sha256: digest that it must have.
        owner: class and argument, for errors.
        fix: how the file is to be had: a clause that begins with a verb.

    Raises:
        InputError: if it is missing or has another digest.
    """
    file = find_file(name, sha256)
    if file is None and not builds_shapes_only():
        raise InputError(f"{owner}: '{name}' is no file on this disk; {fix}, and give its path")
    return file or Path(name)
