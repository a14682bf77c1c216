"""Finds weights that a configuration names missing before anything is built: building one part may take minutes."""

from __future__ import annotations

import inspect
import pydoc
from collections.abc import Iterator, Mapping
from typing import Any

from components.errors import InputError
from components.weights.pretrained import builds_shapes_only, check_found, located
from lightning_modules.checkpoints.check import check_exists

_DIGEST = "sha256"
_BEGINS_WITH = "init_from"


def refuse_missing_weights(config: Mapping[str, Any]) -> None:
    """Looks for everything that the classes of ``config`` load; nothing is downloaded and nothing is read.

    Args:
        config: the parsed configuration as nested dictionaries.

    Raises:
        InputError: naming the key, if weights are on this disk under no name and are no hub repository that might be
            fetched, or if there is no checkpoint to begin with.
    """
    if builds_shapes_only():
        return
    for key, name, subfolder in _named_weights(config, ()):
        try:
            check_found(name, subfolder)
        except InputError as error:
            raise InputError(f"{key}: {error}") from None
    for key, path in _checkpoints(config, ()):
        check_exists(str(located(path)), key)


def _named_weights(content: Any, place: tuple[str, ...]) -> Iterator[tuple[str, str, str | None]]:
    """Key, name and subfolder of whatever a class takes together with its digest: these are files it reads."""
    if isinstance(content, Mapping) and isinstance(given := content.get("init_args"), Mapping):
        for argument in _arguments_with_digests(str(content.get("class_path"))):
            name, prefix = given.get(argument), "" if f"{argument}_{_DIGEST}" not in given else f"{argument}_"
            if name is not None:
                yield _key((*place, argument)), str(name), given.get(f"{prefix}subfolder")
    for key, value in _items(content):
        yield from _named_weights(value, (*place, key))


def _arguments_with_digests(class_path: str) -> list[str]:
    """Arguments of a loader that name what it reads: ``vae`` beside ``vae_sha256``, the first beside ``sha256``."""
    loader: Any = pydoc.locate(class_path)
    names = list(inspect.signature(loader).parameters) if callable(loader) else []
    digests = [name for name in names if name.endswith(_DIGEST)]
    return [names[0] if name == _DIGEST else name.removesuffix(f"_{_DIGEST}") for name in digests]


def _checkpoints(content: Any, place: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Checkpoints that a stage begins with."""
    for key, value in _items(content):
        if key == _BEGINS_WITH and isinstance(value, str):
            yield _key((*place[-1:], key)), value
        yield from _checkpoints(value, (*place, key))


def _items(content: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(content, Mapping):
        yield from content.items()
    elif isinstance(content, list):
        yield from ((str(index), value) for index, value in enumerate(content))


def _key(place: tuple[str, ...]) -> str:
    return ".".join(key for key in place if key != "init_args")
