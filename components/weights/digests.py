"""Digests that a user gives for public weights, compared before anything of the files is used."""

from __future__ import annotations

import re
from pathlib import Path

from components.errors import InputError
from components.weights.identity import sha256_of

Sha256 = dict[str, str] | str | None
"""SHA-256 as ``sha256sum`` prints it: of one file, or of files in a folder by their names within it."""

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_MAX_NAMED = 8


def check_digests(place: Path, sha256: Sha256) -> None:
    """Compares files with the digests they must have.

    Args:
        place: the file, or the folder of the files.
        sha256: None compares nothing; of a folder only the files that are named are compared.

    Raises:
        InputError: naming the file, if its digest is another one; if a name has no file; or if ``sha256`` does not
            suit.
    """
    if sha256 is None:
        return
    if isinstance(sha256, str):
        if place.is_dir():
            raise InputError(
                f"sha256 is a single digest, but '{place}' is a folder{_files_of(place)}; give a mapping of its files' "
                "names to their digests"
            )
        sha256 = {place.name: sha256}
    for name, wanted in sha256.items():
        file = place / name if place.is_dir() else place
        if not file.is_file() or (place.is_file() and name != place.name) or ".." in Path(name).parts:
            raise InputError(
                f"sha256 names '{name}', but there is no such file in '{place}'{_files_of(place)}; correct the name"
            )
        if not isinstance(wanted, str) or not _DIGEST.fullmatch(wanted):
            raise InputError(
                f"sha256 of '{name}' is {wanted!r}, which is no SHA-256; give its 64 hexadecimal digits, as sha256sum "
                "prints them"
            )
        found = sha256_of(file)
        if found != wanted.lower():
            raise InputError(
                f"weights file '{file}' has the SHA-256 {found}, but sha256 asks for {wanted.lower()}; download it "
                "anew, or correct sha256"
            )


def _files_of(place: Path) -> str:
    """``" (it has a, b)"``, so that the right name is at hand."""
    names = sorted(file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file())
    return f" (it has {', '.join(names[:_MAX_NAMED])}{' ...' if len(names) > _MAX_NAMED else ''})" if names else ""
