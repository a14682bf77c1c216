"""Says in one sentence what is wrong with a configuration: which key, what was found, what would be right.

jsonargparse reports a wrong key of a nested class as a tree of a dozen lines. The tree holds all that is needed: the
keys and classes on the way down and, at its first leaf, the complaint itself.
"""

from __future__ import annotations

import difflib
import inspect
import itertools
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.command_line.startup import PLUGIN_PACKAGES

_KEY = re.compile(r'^Parser key "([^"]+)":?\s*')
_CLASS = re.compile(r"^Problem with given class_path '([^']+)':?\s*")
_SCAFFOLD = ("Does not validate against", "Subtypes:", "Errors:", "Given value")
_UNKNOWN = re.compile(
    r"(?:Subcommand '\w+' does not accept option|Group '\w+' does not accept option|Option) '([^']+)'"
)
_CALLABLE = re.compile(
    r"expects a function or a callable class: Option '([^']+)' is not accepted.*class_path='([^']+)'"
)
_NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)|module '(\S+)' has no attribute '(\S+)'")
_NO_SUBCLASS = re.compile(r"Not a valid subclass of (\w+)")
_EXPECTED = re.compile(r"^Expected an? (.+?)(?:\. Got value: (.*))?$")


def parse_error_sentence(message: str, args: Sequence[str]) -> str:
    """The parser's message as one sentence.

    Args:
        message: what jsonargparse says, possibly many lines.
        args: the command line, to name the configuration files.
    """
    path, owner, leaf, alternatives = _descend(message)
    key = ".".join(path)
    if match := _UNKNOWN.match(leaf):
        where = ".".join([*path, match[1]])
        if where.startswith("callbacks.") and (owner or "").endswith(".Callback"):  # the contract: no class was given
            name = ".".join(where.split(".")[:2])
            return f"{_origin(name, args)}{name} has no class_path; give one, or mend the callback's name"
        return f"{_origin(where, args)}unknown key {where}; {_accepted(match[1], owner)}"
    if match := _CALLABLE.search(leaf):
        where = f"{key}.init_args.{match[1]}"
        return f"{_origin(where, args)}unknown key {where}; {_accepted(match[1], match[2])}"
    if match := _NO_CLASS.search(leaf):
        name = match[1] or f"{match[2]}.{match[3]}"
        mend = _did_you_mean(name.rpartition(".")[2], _known_classes()) or "give its full import path"
        return f"{_origin(name, args)}{key} names the class {name}, which does not exist; {mend}"
    if match := _NO_SUBCLASS.match(leaf):
        mend = "give a class name, or class_path and init_args"
        return f"{_origin(key, args)}{key} holds {_found(message)}, which is no {match[1]}; {mend}"
    if leaf.startswith("the following arguments are required:"):
        names = leaf.partition(":")[2].strip().split(", ")
        missing = [".".join([*path, name]) if path else name.partition(".")[2] or "a subcommand" for name in names]
        mend = "give it in the file" if config_files(args) else "name a file with --config FILE"
        return f"{_origin('', args)}{' and '.join(missing)} must be given{f' for {owner}' if owner else ''}; {mend}"
    if key == "config":
        return f"--config: {_lower_first(leaf)}; give the path of a YAML file that exists"
    if leaf.startswith("Unexpected config:"):
        found = leaf.partition(":")[2].strip()
        return f"{_origin('', args)}a configuration file holds keys and their values, but {found!r} was found; mend it"
    if leaf.startswith("Problems parsing config"):
        problem = leaf.partition(":")[2].strip().replace('in "<unicode string>", ', "at ")
        return f"{_origin('', args)}not valid YAML: {problem}; mend the file there"
    if leaf.startswith('expected "subcommand"'):
        return "no subcommand was given; use avsync fit, validate, test, predict or export (avsync --help lists them)"
    if leaf.startswith("unrecognized arguments:"):
        option = leaf.partition(":")[2].split()[0]
        return f"unknown option {option}; {_accepted(option.lstrip('-'), None)}"
    if _EXPECTED.match(leaf):
        wanted = _type_names(match[1] for line in alternatives if (match := _EXPECTED.match(line)))
        found = _found(message)
        if found == "'None'" and "null" in wanted:  # the parser makes a word of a null given several classes deep
            return f"{_origin(key, args)}{key} cannot be set to null here; set it to null in a file given with --config"
        return f"{_origin(key, args)}{key} is {found}, but must be {wanted}"
    return f"{_origin(key, args)}{key}: {leaf}" if key else leaf


def _descend(message: str) -> tuple[list[str], str | None, str, list[str]]:
    """Keys down to the complaint, the class that complains, the complaint, and its siblings in a union."""
    path: list[str] = []
    owner: str | None = None
    lines = message.splitlines()
    for index, line in enumerate(lines):
        text, indent = line.strip().removeprefix("- "), _indent(line)
        while text:
            if match := _KEY.match(text):
                path.append(match[1])
            elif match := _CLASS.match(text):
                owner = match[1]
                path.append("init_args")
            else:
                break
            text = text[match.end() :]
        if not text or text.startswith(_SCAFFOLD):
            continue
        same = [other.strip().removeprefix("- ") for other in lines[index:] if _indent(other) == indent]
        if path and path[-1] == "init_args" and _NO_CLASS.search(text):
            path.pop()
        return path, owner, _joined(text, lines[index + 1 :], indent), same
    return path, owner, " ".join(message.split()), []


def _joined(text: str, rest: Iterable[str], indent: int) -> str:
    """A complaint with its continuation lines, if it is plain text and no item of a union."""
    if _EXPECTED.match(text) or _UNKNOWN.match(text) or _NO_CLASS.search(text):
        return text
    for line in rest:
        if line.strip().startswith(("- ", *_SCAFFOLD)) or _indent(line) < indent:
            break
        text += " " + line.strip()
    return " ".join(text.split())


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _found(message: str) -> str:
    """The innermost value the parser quotes."""
    found = re.search(r"Got value: (.*)", message) or re.search(r"Given value: (.*)", message)
    return repr(found[1]) if found else "something else"


def _type_names(wanted: Iterable[str]) -> str:
    names = [re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", name) for name in wanted]
    names = [re.sub(r"typing\.Literal\[(.*)\]", r"one of \1", name).replace("NoneType", "null") for name in names]
    return " or ".join(dict.fromkeys(names))


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def config_files(args: Sequence[str]) -> list[str]:
    """The configuration files a command line names, in order."""
    files = [following for flag, following in itertools.pairwise(args) if flag in ("-c", "--config")]
    return files + [arg.partition("=")[2] for arg in args if arg.startswith("--config=")]


def _origin(key: str, args: Sequence[str]) -> str:
    """Where the key was given: ``a.yaml: ``, or the command line if that holds the last part of the key."""
    last = key.rpartition(".")[2]
    if last and any(arg.startswith("--") and last in re.split(r"[.=]", arg.lstrip("-")) for arg in args):
        return "command line: "
    files = config_files(args)
    holding = [file for file in files if last and last in _words(file)]
    return f"{' or '.join(holding or files)}: " if files else ""


def _words(file: str) -> set[str]:
    """Every key and every value in a configuration file; none where it cannot be read."""
    try:
        waiting: list[Any] = [yaml.safe_load(Path(file).read_text(encoding="utf-8"))]
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return set()
    words: set[str] = set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            words.update(str(key) for key in item)
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
        else:
            words.add(str(item).rpartition(".")[2])
    return words


def _accepted(name: str, owner: str | None) -> str:
    """What the class ``owner`` (or the top level) takes, the closest name first."""
    *groups, last = name.split(".")
    if owner is not None:
        owned = _import(owner)
        takes, keys = owned.__qualname__, _parameters(owned)
    elif groups == ["trainer"]:
        from lightning.pytorch import Trainer

        takes, keys = "trainer", _parameters(Trainer)
    elif not groups:
        takes, keys = "the top level", ["seed_everything", "experiment", "trainer", "model", "data", "ckpt_path"]
    else:
        return "remove it or mend its name"
    return _did_you_mean(last, keys) or f"{takes} takes {', '.join(keys)}"


def _did_you_mean(name: str, known: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else None


def _import(path: str) -> Any:
    """The class, function or class's method at ``path``; the parser has imported its module."""
    module, names = path, list[str]()
    while module not in sys.modules:
        module, _, name = module.rpartition(".")
        names.insert(0, name)
    found: Any = sys.modules[module]
    for name in names:
        found = getattr(found, name)
    return found


def _parameters(owner: Any) -> list[str]:
    """Names of a function's arguments, or of a constructor's, through base classes that take ``**kwargs``."""
    if not isinstance(owner, type):
        return list(inspect.signature(owner).parameters)
    names: dict[str, None] = {}
    for base in owner.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        names |= dict.fromkeys(p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return list(names)


def _known_classes() -> set[str]:
    """Names of the classes that short names can stand for: the plug-ins and Lightning's own callbacks and loggers."""
    roots = (*PLUGIN_PACKAGES, "lightning.pytorch.callbacks", "lightning.pytorch.loggers")
    return {
        name
        for module_name, module in list(sys.modules.items())
        if module_name.startswith(roots)
        for name, item in vars(module).items()
        if isinstance(item, type) and item.__module__.startswith(roots)
    }
