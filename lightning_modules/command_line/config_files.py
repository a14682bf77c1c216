"""What a configuration file may say beyond jsonargparse: on which files it builds, and callbacks by name.

An experiment is a short file of differences. Its first line names the files it builds on, relative to itself or to the
folder that avsync is installed in::

    base: base.yaml

which is the same as giving ``--config base.yaml`` before it on the command line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from components.errors import InputError
from components.media.clock import ClipShape
from components.weights.pretrained import PACKAGE_ROOT, located

_CLIP_KEYS = tuple(field.name for field in fields(ClipShape))
_CLIP_OF_DATA = re.compile(r"^--data(\.init_args)?\.clip((?:\.\w+)?)")
_UNKNOWN_OF_DATA = re.compile(r"unknown key data\.init_args\.(\w+)")
_CALLBACK_OPTION = re.compile(r"^--callbacks\.([A-Za-z_]\w*)")
_CALLBACK_REMOVED = re.compile(r"^--callbacks\.([A-Za-z_]\w*)[= ]null$")
# libyaml's where PyYAML has it: files are read several times before a command runs
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def with_bases(args: Sequence[str]) -> list[str]:
    """The command line with the bases of every configuration file given before it.

    A relative file that is not in the working directory is looked for where avsync is installed.

    Raises:
        InputError: if a base does not exist, or files build on each other in a circle.
    """
    expanded: list[str] = []
    for option, value in arguments_and_files(args):
        if option is None:
            expanded.append(value)
            continue
        # bases first: in jsonargparse later files win
        chain = _chain(located(value), ())
        for file in chain:
            expanded += [option, str(file)]
        # what is printed or saved holds all that the bases say, and stands where it is put
        if len(chain) > 1:
            expanded.append("--base=null")
    return expanded


def callback_names(args: Sequence[str]) -> list[str]:
    """Names under ``callbacks`` in the files and options of an expanded command line, in order of appearance."""
    names: dict[str, None] = {}
    for option, value in arguments_and_files(args):
        if option is not None:
            names |= dict.fromkeys(_callbacks_of(value))
        elif match := _CALLBACK_OPTION.match(value):
            names[match[1]] = None
    return list(names)


def all_removed(args: Sequence[str]) -> list[str]:
    """The command line with ``--callbacks null`` written out: every named callback of the files is removed."""
    names = dict.fromkeys(name for file in config_files(args) for name in _callbacks_of(file))
    removals = [f"--callbacks.{name}=null" for name in names]
    written_out: list[str] = []
    for argument in args:
        if argument == "--callbacks=null":
            written_out += removals
        elif argument == "null" and written_out[-1:] == ["--callbacks"]:
            written_out[-1:] = removals
        else:
            written_out.append(argument)
    return written_out


def refuse_removal_of_nothing(args: Sequence[str]) -> None:
    """What removes a callback by its name must meet one: with a slip in the name it would stay.

    Files of ours are exempt: they are laid over experiments that have the callback and over some that do not.

    Raises:
        InputError: if no file of an expanded command line has a callback of a name that an option, or a file that is
            not shipped, removes.
    """
    sections = {file: _callbacks_of(file) for file in config_files(args)}
    removals = [
        (f"{file}: callbacks", name)
        for file, section in sections.items()
        for name, callback in section.items()
        if callback is None and PACKAGE_ROOT / "configs" not in Path(file).resolve().parents
    ]
    # an option and its value may be one argument or two
    options = [_CALLBACK_REMOVED.match(given) for given in [*args, *(f"{one} {two}" for one, two in pairwise(args))]]
    removals += [("--callbacks", match[1]) for match in options if match]
    known = [name for section in sections.values() for name, callback in section.items() if callback is not None]
    for place, name in removals:
        if name not in known:
            names = f"the names are {', '.join(dict.fromkeys(known))}" if known else "no configuration file names any"
            raise InputError(f"{place}.{name}: there is no callback of that name to remove; {names}")


def _callbacks_of(file: str) -> dict[str, Any]:
    section = content_of(Path(file)).get("callbacks")
    return {str(name): callback for name, callback in section.items()} if isinstance(section, dict) else {}


def refuse_clips_of_data(args: Sequence[str]) -> None:
    """Clips are described once, in the section ``clip`` that every data set is given; a second place would be ignored.

    Raises:
        InputError: if a file or an option of an expanded command line sets ``data.init_args.clip``.
    """
    for option, value in arguments_and_files(args):
        if option is None:
            if match := _CLIP_OF_DATA.match(value):
                raise InputError(f"{match[0]}: clips are described once, for every data set; use --clip{match[2]}")
            continue
        data = content_of(Path(value)).get("data")
        arguments = data.get("init_args") if isinstance(data, dict) else None
        if isinstance(arguments, dict) and "clip" in arguments:
            raise InputError(
                f"{value}: data.init_args.clip: clips are described once, for every data set; move it to a section "
                "'clip' at the file's top level"
            )


def moved_to_clip(sentence: str) -> str:
    """A complaint about an unknown key of a data set that is now said under ``clip``, with its new place."""
    match = _UNKNOWN_OF_DATA.search(sentence)
    if match is None or match[1] not in _CLIP_KEYS:
        return sentence
    return f"{sentence[: match.end()]}; clips are described once, for every data set: set clip.{match[1]}"


def arguments_and_files(args: Sequence[str]) -> Iterator[tuple[str | None, str]]:
    """``(option, file)`` for configuration files, ``(None, argument)`` for everything else."""
    waiting: str | None = None
    for argument in args:
        if waiting is not None:
            yield waiting, argument
            waiting = None
        elif argument in ("--config", "-c"):
            waiting = argument
        elif argument.startswith("--config="):
            yield "--config", argument.removeprefix("--config=")
        else:
            yield None, argument
    if waiting is not None:
        yield None, waiting


def config_files(args: Sequence[str]) -> list[str]:
    """The configuration files a command line names, in order."""
    return [value for option, value in arguments_and_files(args) if option is not None]


def _chain(file: Path, above: tuple[Path, ...]) -> list[Path]:
    """The file behind everything it builds on."""
    # resolved: the same file by another path is the same file
    if file.resolve() in above:
        circle = " -> ".join(path.name for path in (*above, file.resolve()))
        raise InputError(f"base: configuration files build on each other in a circle ({circle}); remove one base")
    given = content_of(file).get("base") or []
    bases = given if isinstance(given, list) else [given]
    if not all(isinstance(base, str) for base in bases):
        raise InputError(f"{file}: base is {given!r}; give the name of a configuration file or a list of names")
    chain: list[Path] = []
    for base in bases:
        path = file.parent / base
        if not path.exists() and (PACKAGE_ROOT / base).is_file():
            path = PACKAGE_ROOT / base
        if not path.is_file():
            problem = "is a folder" if path.is_dir() else "does not exist"
            raise InputError(f"{file}: base names '{base}', but '{path}' {problem}; correct the name")
        chain += _chain(path, (*above, file.resolve()))
    return [*chain, file]


def content_of(file: Path) -> dict[str, Any]:
    """The file's top level; nothing where the parser will find the file missing or broken and say so."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
