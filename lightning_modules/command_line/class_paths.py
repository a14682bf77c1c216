"""Says why a class path in a configuration leads nowhere: it moved, there is no such file, or its file is broken."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from lightning_modules.command_line.config_files import arguments_and_files, content_of
from lightning_modules.command_line.moved import new_place
from lightning_modules.command_line.startup import HOME, OWN_PACKAGES

_TO_INSTALL = {"torchao": "'avsync[optim]'", "bitsandbytes": "bitsandbytes"}
"""Libraries of optimizers that a configuration may name, and what brings them."""
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def class_path_sentence(args: Sequence[str]) -> str | None:
    """What is wrong with the first class path of a command line that leads nowhere, or None if all lead somewhere.

    It reads files and options itself: however the parser words its complaint, if it has one, this sentence is ours.

    Args:
        args: the command line, with bases expanded.
    """
    for origin, key, name in _class_paths(args):
        if problem := import_problem(name):
            return f"{origin}: {key} names {name}, {problem}"
    return None


def import_problem(name: str) -> str | None:
    """Why the class, function or method ``name`` cannot be imported, as the rest of a sentence; None if it can."""
    parts = name.split(".")
    found: Any = None
    depth = 0  # how many of the parts are modules, each in the one before
    place = parts[0]
    try:
        while depth < len(parts) and (depth == 0 or hasattr(found, "__path__")):
            place = ".".join(parts[: depth + 1])
            if not _is_module(place):
                # a name that is no module may be a class of the last one
                break
            found = importlib.import_module(place)
            depth += 1
    except Exception as error:  # whatever a module does while it is imported
        return _broken(error, place)
    for part in parts[depth:]:
        if not hasattr(found, part):
            if moved := new_place(name):
                return f"which moved: use {moved}"
            return _missing(parts) if depth == 0 else _lacking(found, part)
        found = getattr(found, part)
    return None


def found_at(path: str) -> Any:
    """The class, function or class's method at ``path``, whose module the parser has imported; None if it has not."""
    module, names = path, list[str]()
    while module and module not in sys.modules:
        module, _, name = module.rpartition(".")
        names.insert(0, name)
    found: Any = sys.modules.get(module)
    for name in names:
        found = getattr(found, name, None)
    return found


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """``did you mean X?`` with the closest of the known names, or None if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else None


def known_classes() -> set[str]:
    """Names of the classes that short names can stand for: our own and Lightning's callbacks and loggers."""
    roots = (*OWN_PACKAGES, "lightning.pytorch.callbacks", "lightning.pytorch.loggers")
    return {
        name
        # a copy: importing may add modules meanwhile
        for module_name, module in list(sys.modules.items())
        if module_name.startswith(roots)
        for name, item in vars(module).items()
        if isinstance(item, type) and item.__module__.startswith(roots)
    }


def _class_paths(args: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Where it stands, its key and the class path, for whatever a command line names with dots."""
    key = ""
    for option, value in arguments_and_files(args):
        if option is not None:
            for place, name in _strings(content_of(Path(value)), ()):
                if _is_class_path(place, name):
                    yield value, _key(place), name
            continue
        if value.startswith("--"):
            key, _, value = value.removeprefix("--").partition("=")
        try:
            given = yaml.safe_load(value)  # an option's value may be a whole section
        except yaml.YAMLError:
            continue
        for place, name in _strings(given, tuple(key.rstrip("+").split("."))):
            if _is_class_path(place, name):
                yield "command line", _key(place), name


def _strings(content: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every string in nested dictionaries and lists with the keys that lead to it."""
    if isinstance(content, str):
        yield place, content
    elif isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _strings(value, (*place, str(key)))


def _is_class_path(place: tuple[str, ...], text: str) -> bool:
    """Whether ``text`` is meant as a class path.

    Certainly under the key ``class_path``. A class may also be given as nothing but its path, which must then look like
    a class of a module that is there, so that ``image.PNG`` is not taken for one.
    """
    if not _DOTTED.fullmatch(text):
        return False
    if place[-1:] == ("class_path",) or place in (("model",), ("data",)) or new_place(text) is not None:
        return True
    top, last = text.partition(".")[0], text.rpartition(".")[2]
    return last[0].isupper() and top not in sys.stdlib_module_names and (_is_module(top) or top in _TO_INSTALL)


def _is_module(name: str) -> bool:
    """Whether there is such a module; in a package that has been imported, for a name with dots."""
    return name in sys.modules or importlib.util.find_spec(name) is not None


def _key(place: Iterable[str]) -> str:
    """As short as options may be: ``model.dit``, not ``model.init_args.dit.class_path``."""
    return ".".join(key for key in place if key not in ("init_args", "class_path"))


def _missing(parts: Sequence[str]) -> str:
    """No module or package of the first name: what was looked for, and where."""
    top = parts[0]
    library = Path(sysconfig.get_path("stdlib"))
    folders = [Path(entry).resolve() for entry in sys.path]
    searched = [
        str(folder) for folder in folders if folder.is_dir() and folder not in (library, library / "lib-dynload")
    ]
    if top in _TO_INSTALL:
        return f"but {top} is not installed: pip install {_TO_INSTALL[top]}"
    fix = "put it into the working directory, or correct the name"
    if parts[-1] in known_classes():
        fix = f"did you mean {parts[-1]}?"
    return (
        f"but there is neither a file {top}.py nor a folder {top} "
        f"(searched: {', '.join(dict.fromkeys(searched))}); {fix}"
    )


def _lacking(owner: Any, part: str) -> str:
    """A module or class that is there, but holds nothing of that name."""
    top = getattr(owner, "__name__", "").partition(".")[0]
    hidden = Path.cwd().resolve() / top
    if top in OWN_PACKAGES and hidden.parent != HOME and (hidden.is_dir() or hidden.with_suffix(".py").is_file()):
        return f"but {top} is a package of avsync, and '{hidden}' is not searched; rename yours"
    fix = did_you_mean(part, known_classes() if top in OWN_PACKAGES else vars(owner)) or "correct the name"
    if not isinstance(owner, ModuleType):
        return f"but {owner.__qualname__} has no {part}; {fix}"
    if (folders := list(getattr(owner, "__path__", ()))) and not part[0].isupper():
        return f"but there is no file {part}.py (searched: {', '.join(folders)}); {fix}"
    if owner.__file__ is None:  # a folder without __init__.py
        return f"but '{folders[0]}' has no __init__.py that defines {part}; {fix}"
    return f"but '{owner.__file__}' has no {part}; {fix}"


def _broken(error: Exception, place: str) -> str:
    """A module that is there and cannot be imported: file and line of the cause in it, and the cause's own words."""
    words = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"which cannot be imported: '{error.filename}', line {error.lineno}: {type(error).__name__}: {error.msg}"
    spec = importlib.util.find_spec(place.partition(".")[0])
    homes = [*(spec.submodule_search_locations or ()), spec.origin or ""] if spec is not None else []
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if any(home and frame.filename.startswith(home) for home in homes)]
    where = f" '{own[-1].filename}', line {own[-1].lineno}:" if own else ""
    return f"which cannot be imported:{where} {' '.join(words.split())}"
