"""Says in one sentence what is wrong with a configuration: which key, what was found, what would be right."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from lightning_modules.command_line.class_paths import did_you_mean, found_at, known_classes
from lightning_modules.command_line.config_files import config_files, content_of
from lightning_modules.command_line.jsonargparse_errors import read_complaint
from lightning_modules.command_line.moved import MOVED_SETTINGS

_LIST = re.compile(r"(list|Sequence|tuple)\b")
_SECTIONS = ("seed_everything", "experiment", "base", "clip", "trainer", "callbacks", "model", "data", "ckpt_path")


def parse_error_sentence(message: str, args: Sequence[str]) -> str:
    """The parser's message as one sentence; where its words are not known, the whole message on one line.

    Args:
        message: what jsonargparse says, possibly many lines.
        args: the command line, to name the configuration files.
    """
    complaint = read_complaint(message)
    key, names = ".".join(complaint.path), complaint.names
    match complaint.kind:
        case "unknown key":
            return _unknown_key(".".join([*complaint.path, names[0]]), complaint.owner, args)
        case "unknown key of a callable":
            return _unknown_key(f"{key}.init_args.{names[0]}", names[1], args)
        case "no short name" | "no attribute":
            name = ".".join(names)
            if name == "None":  # a null given several classes deep became a word
                return f"{_origin(key, args)}{key} cannot be null; give a class name, or class_path and init_args"
            fix = did_you_mean(names[-1].rpartition(".")[2], known_classes()) or "give its full import path"
            return f"{_origin(name, args)}{key} names the class {name}, which does not exist; {fix}"
        case "another class":
            return f"{_origin(names[0], args)}{key} names {names[0]}, which is no {names[1]}; give a class that is"
        case "no class":
            fix = "give a class name, or class_path and init_args"
            return f"{_origin(key, args)}{key} holds {complaint.found}, which is no {names[0]}; {fix}"
        case "missing":
            required = names[0].split(", ")
            missing = [f"{key}.{name}" if key else name.partition(".")[2] or "a subcommand" for name in required]
            owner = f" for {complaint.owner}" if complaint.owner else ""
            fix = "give it in the file" if config_files(args) else "name a file with --config FILE"
            return f"{_origin('', args)}{' and '.join(missing)} must be given{owner}; {fix}"
        case "no mapping":
            return (
                f"{_origin('', args)}a configuration file holds keys and their values, but {names[0]!r} was found; "
                "correct it"
            )
        case "no YAML":
            problem = names[0].strip().replace('in "<unicode string>", ', "at ")
            return f"{_origin('', args)}not valid YAML: {problem}; correct the file there"
        case "no subcommand":
            return "no subcommand was given; use avsync fit, validate, test, predict, export or compare (avsync --help)"
        case "unknown option":
            if not names[0].startswith("-"):  # what follows a value: a shell has split at a space
                return f"unexpected argument {names[0]}; put a value that has spaces or brackets in quotes"
            return f"unknown option {names[0]}; {_accepted(names[0].lstrip('-'), None)}"
        case "wrong value":
            wanted = " or ".join(complaint.wanted)
            if complaint.found == "'None'" and "null" in wanted:  # a null given several classes deep became a word
                fix = "set it to null in a file given with --config"
                return f"{_origin(key, args)}{key} cannot be set to null here; {fix}"
            sentence = f"{_origin(key, args)}{key} is {complaint.found}, but must be {wanted}"
            is_list = bool(complaint.wanted) and all(_LIST.match(name) or name == "null" for name in complaint.wanted)
            return sentence + (_in_quotes(key, args) if is_list else "")
    if key == "config":
        words = complaint.words[:1].lower() + complaint.words[1:]
        return f"--config: {words}; give the path of a YAML file that exists"
    return f"{_origin(key, args)}{' '.join(message.split())}"


def _unknown_key(key: str, owner: str | None, args: Sequence[str]) -> str:
    if key.startswith("callbacks.") and (owner or "").endswith(".Callback"):  # the base class: no class was given
        name = ".".join(key.split(".")[:2])
        return f"{_origin(name, args)}{name} has no class_path; give one, or correct the callback's name"
    section, _, name = key.rpartition(".")
    if moved := MOVED_SETTINGS.get((owner or "").rpartition(".")[2], {}).get(name):
        return f"{_origin(key, args)}unknown key {key}, which moved: use {section}.{moved}"
    return f"{_origin(key, args)}unknown key {key}; {_accepted(key, owner)}"


def _origin(key: str, args: Sequence[str]) -> str:
    """Where the key was given: ``a.yaml: ``, or the command line if that holds the last part of the key."""
    last = key.rpartition(".")[2]
    if last and any(arg.startswith("--") and last in re.split(r"[.=]", arg.lstrip("-")) for arg in args):
        return "command line: "
    files = config_files(args)
    holding = [file for file in files if last and last in _words(file)]
    return f"{' or '.join(holding or files)}: " if files else ""


def _in_quotes(key: str, args: Sequence[str]) -> str:
    """How a list is given on the command line: without quotes a shell splits it at spaces and looks for its files."""
    last = key.rpartition(".")[2]
    for index, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        if not option.startswith("--") or option.rpartition(".")[2] != last:
            continue
        following = list(takewhile(lambda other: not other.startswith("--"), args[index + 1 :]))
        given = [*([value] if equals else []), *following]
        if not given:
            continue
        text = " ".join(given) if given[0].startswith("[") else f"[{', '.join(given)}]"
        whole = text if text.endswith("]") else f"{text}]"
        return f"; write the whole list in quotes, or the shell takes it apart: {option} '{whole}'"
    return ""


def _words(file: str) -> set[str]:
    """Every key and every value in a configuration file; none where it cannot be read."""
    waiting: list[Any] = [content_of(Path(file))]
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
        owned = found_at(owner)
        takes, keys = owned.__qualname__, _parameters(owned)
    elif groups == ["trainer"]:
        takes, keys = "trainer", _parameters(Trainer)
    elif not groups:
        takes, keys = "the top level", list(_SECTIONS)
    else:
        return "remove it or correct its name"
    return did_you_mean(last, keys) or f"{takes} takes {', '.join(keys)}"


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
        # a class that passes ``**kwargs`` on takes its bases' arguments too
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return list(names)
