"""A null on the command line, however many classes deep it is given.

An option of a class within a class goes through one parser of jsonargparse after the other, each of which hands on what
it has read as Python prints it: a null arrives as the word ``None``, which the last one takes for the name of a class.
Such nulls are therefore put into the configuration afterwards, as a file says them.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import NoneType
from typing import Any, get_args, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from lightning_modules.command_line.class_paths import found_at

_OPTION = re.compile(r"--(?P<key>(model|data|callbacks\.\w+)\.[\w.]+)(?P<end>$|\+?=.*)", re.DOTALL)


def parse_with_nulls(parser: ArgumentParser, args: Sequence[str]) -> Namespace:
    """What ``parser`` reads of a command line; nulls for arguments of classes that may be null are understood.

    Raises:
        ArgumentError: as the parser does.
    """
    args, options = _without_overruled(args)
    if not options:
        return parser.parse_args(args)
    try:
        config = parser.parse_args(_without(args, options))
    except ArgumentError:
        return parser.parse_args(args)
    said, command = {}, config.get("subcommand")  # there is none where a program asks for an experiment
    for place, keys in options.items():
        if (found := _as_in_a_file(config if command is None else config[command], keys)) is not None:
            said[place] = found
    if len(said) < len(options):
        # the parser has the last word on what is no setting, or cannot be null
        config = parser.parse_args(_without(args, said))
    for section in said.values():
        whole = section if command is None else {"subcommand": command, command: section}
        config = parser.parse_object(whole, namespace=config)
    return config


def _without_overruled(args: Sequence[str]) -> tuple[list[str], dict[tuple[int, ...], list[str]]]:
    """The command line without nulls that a later option sets otherwise, and its other nulls for arguments of classes.

    These are given by their places in it and their keys; not among them is what a later option changes in part.
    """
    found: dict[tuple[int, ...], list[str]] = {}
    overruled: list[tuple[int, ...]] = []
    # an option and its value may be one argument or two
    for place, (one, two) in enumerate(pairwise([*args, ""])):
        if (match := _OPTION.match(one)) is None:
            continue
        keys = [key for key in match["key"].split(".") if key not in ("init_args", "class_path")]
        overruled += [at for at, other in found.items() if other == keys]
        found = {at: other for at, other in found.items() if not _same(other, keys)}
        if match["end"] == "=null" or (not match["end"] and two == "null"):
            found[(place,) if match["end"] else (place, place + 1)] = keys
    left = _without(args, dict.fromkeys(overruled))
    gone = sorted(index for at in overruled for index in at)
    return left, {tuple(index - bisect(gone, index) for index in at): keys for at, keys in found.items()}


def _same(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether one of two settings is the other, or holds it."""
    return all(a == b for a, b in zip(one, other, strict=False))


def _without(args: Sequence[str], options: Mapping[tuple[int, ...], Any]) -> list[str]:
    left_out = {index for place in options for index in place}
    return [argument for index, argument in enumerate(args) if index not in left_out]


def _as_in_a_file(config: Namespace, keys: Sequence[str]) -> dict[str, Any] | None:
    """The section of a file that sets ``keys`` to null; None if there is no such setting or it cannot be null."""
    owner = config.get("class_path")
    arguments: Namespace | None = config if owner is None else config.get("init_args")
    first, *below = keys
    said: dict[str, Any] | None = None
    if not below:
        if owner is None or not _may_be_null(found_at(owner), first):
            return None
    elif (
        arguments is None
        or not isinstance(inner := arguments.get(first), Namespace)
        or (said := _as_in_a_file(inner, below)) is None
    ):
        return None
    return {first: said} if owner is None else {"class_path": owner, "init_args": {first: said}}


def _may_be_null(owner: Any, name: str) -> bool:
    """Whether an argument of a class, or of a function that makes one, is annotated so."""
    makers = [owner]
    if isinstance(owner, type):
        # a class that passes ``**kwargs`` on takes its bases' arguments too
        makers = [vars(base)["__init__"] for base in owner.__mro__ if "__init__" in vars(base)]
    hints = next((hints for maker in makers if name in (hints := get_type_hints(maker))), {})
    return NoneType in get_args(hints.get(name))
