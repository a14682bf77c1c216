"""Which arguments of a class or a function name files, so that a missing one is found before anything is built."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from components.errors import InputError
from components.weights.identity import sha256_of
from components.weights.pretrained import builds_shapes_only, check_found, find_file, find_folder, located

_ATTRIBUTE = "_names_files"
_PUBLISHED = "_published"
_OF_NO_CONSEQUENCE = "_of_no_consequence"
_READ = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".json", ".model", ".txt")
T = TypeVar("T")


def names_files(*paths: str, **folders: str | None) -> Callable[[T], T]:
    """Marks a class or function.

    Args:
        paths: arguments that name a file or folder on this disk, or a list of them; ``section.name`` for one of a
            section.
        folders: arguments that name what `resolve_folder` finds, also on the hub, or a file, each with the argument
            that names the subfolder (None without one).
    """

    def marked(target: T) -> T:
        setattr(target, _ATTRIBUTE, (paths, folders))
        return target

    return marked


def published(where: str) -> Callable[[T], T]:
    """Marks a class or function that `names_files` marks: where its public files are.

    Args:
        where: a clause that begins with a verb: what to download, from where, under which licence, with which digest.
    """

    def marked(target: T) -> T:
        setattr(target, _PUBLISHED, where)
        return target

    return marked


def check_named_files(target: object, arguments: Mapping[str, Any], key: str) -> None:
    """Looks whether everything is there that ``target`` is to be built from; reads, builds and downloads nothing.

    Where only shapes are built nothing needs to be there.

    Args:
        target: a class or function, marked or not.
        arguments: what it is to be called with.
        key: where these stand in the configuration.

    Raises:
        InputError: if a file or folder is missing, naming its key.
    """
    if builds_shapes_only():
        return
    # a derived class marks itself: it may make the files that its base reads
    held = vars(target) if isinstance(target, type) else {_ATTRIBUTE: getattr(target, _ATTRIBUTE, ((), {}))}
    paths, folders = held.get(_ATTRIBUTE, ((), {}))
    fix = getattr(target, _PUBLISHED, None)
    for name in paths:
        value: Any = arguments
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        for path in value if isinstance(value, list | tuple) else [value]:
            if path is not None and not located(path).exists():
                raise InputError(f"{key}.{name}: '{path}' does not exist; {fix or 'give an existing path'}")
    for name, subfolder in folders.items():
        if (value := arguments.get(name)) is not None:
            try:
                check_found(value, arguments.get(subfolder) if subfolder else None)
            except InputError as error:
                raise InputError(f"{key}.{name}: {error}{f' ({fix})' if fix else ''}") from None


def of_no_consequence(*arguments: str) -> Callable[[T], T]:
    """Marks a class or function: these arguments decide how fast and where it computes, but not what."""

    def marked(target: T) -> T:
        setattr(target, _OF_NO_CONSEQUENCE, arguments)
        return target

    return marked


def consequential(target: object, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that values depend on, files not among them: these are told by their bytes (`named_weights`)."""
    paths, folders = getattr(target, _ATTRIBUTE, ((), {}))
    files = {*paths, *folders, *(subfolder for subfolder in folders.values() if subfolder)}
    passed_over = files | set(getattr(target, _OF_NO_CONSEQUENCE, ()))
    return {name: value for name, value in arguments.items() if name not in passed_over and "sha256" not in name}


def named_weights(target: object, arguments: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Argument -> the ``name`` of what it names, and its ``sha256`` where it lies on this disk.

    Of a folder all files count that a loader may read, in subfolders too.
    """
    paths, folders = getattr(target, _ATTRIBUTE, ((), {}))
    found = {}
    passed_over = getattr(target, _OF_NO_CONSEQUENCE, ())
    for argument, subfolder in {**dict.fromkeys(paths), **folders}.items():
        if (name := arguments.get(argument)) is None or argument in passed_over:
            continue
        within = arguments.get(subfolder) if subfolder else None
        place = find_file(name) or find_folder(name, within)
        found[argument] = {"name": f"{name}/{within}" if within else str(name)}
        if place is not None:
            found[argument]["sha256"] = digest_of(place)
    return found


def digest_of(place: Path) -> str:
    """SHA-256 of a file, or of all files of a folder that a loader may read.

    Raises:
        InputError: if a file cannot be read.
    """
    if place.is_file():
        return sha256_of(place)
    files = sorted(file for file in place.rglob("*") if file.suffix in _READ and file.is_file())
    lines = "".join(f"{sha256_of(file)}  {file.relative_to(place).as_posix()}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()
