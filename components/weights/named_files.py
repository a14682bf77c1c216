"""Which arguments of a class or a function name files, so that a missing one is found before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from components.errors import InputError
from components.weights.pretrained import builds_shapes_only, check_found, located

_ATTRIBUTE = "_names_files"
T = TypeVar("T")


def names_files(*paths: str, **folders: str | None) -> Callable[[T], T]:
    """Marks a class or function.

    Args:
        paths: arguments that name a file or folder on this disk; ``section.name`` for one of a section.
        folders: arguments that name what `resolve_folder` finds, also on the hub, or a file, each with the argument
            that names the subfolder (None without one).
    """

    def marked(target: T) -> T:
        setattr(target, _ATTRIBUTE, (paths, folders))
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
    for name in paths:
        value: Any = arguments
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None and not located(value).exists():
            raise InputError(f"{key}.{name}: '{value}' does not exist; give an existing path")
    for name, subfolder in folders.items():
        if (value := arguments.get(name)) is not None:
            try:
                check_found(value, arguments.get(subfolder) if subfolder else None)
            except InputError as error:
                raise InputError(f"{key}.{name}: {error}") from None
