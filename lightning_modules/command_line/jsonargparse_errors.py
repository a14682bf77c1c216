"""Reads jsonargparse's errors: which key, what kind of complaint, what it names.

It reports a wrong key of a nested class as a tree of a dozen lines. The tree holds all that is needed: the keys and
classes on the way down and, at its first leaf, the complaint itself. All that we rely on of its words is in this file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_KEY = re.compile(r'^Parser key "([^"]+)":?\s*')
_CLASS = re.compile(r"^Problem with given class_path '([^']+)':?\s*")
_SCAFFOLD = ("Does not validate against", "Subtypes:", "Errors:", "Given value")
_EXPECTED = re.compile(r"^Expected an? (.+?)(?:\. Got value: (.*))?$")

COMPLAINTS = {
    "unknown key of a callable": re.compile(
        r".*expects a function or a callable class: Option '([^']+)' is not accepted.*class_path='([^']+)'"
    ),
    "unknown key": re.compile(
        r"(?:Subcommand '\w+' does not accept option|Group '\w+' does not accept option|Option) '([^']+)'"
    ),
    "no short name": re.compile(r".*Expected a dot import path string: (\S+)"),
    "no attribute": re.compile(r".*module '(\S+)' has no attribute '(\S+)'"),
    "another class": re.compile(
        r"Import path (\S+) does not (?:correspond to a subclass of|implement protocol) ([\w.]+)"
    ),
    "no class": re.compile(r"Not a valid subclass of (\w+)"),
    "missing": re.compile(r"the following arguments are required: (.+)"),
    "no mapping": re.compile(r"Unexpected config: (.*)"),
    "no YAML": re.compile(r"Problems parsing config: ?(.*)"),
    "no subcommand": re.compile(r'expected "subcommand"'),
    "unknown option": re.compile(r"unrecognized arguments: (\S+)"),
    "wrong value": _EXPECTED,
}
"""By kind, what jsonargparse begins a complaint with; the groups are the names in it."""

_ABOUT_THE_CLASS = ("no short name", "no attribute")  # not about its arguments, below which they stand
_IN_ONE_LINE = (*_ABOUT_THE_CLASS, "unknown key", "wrong value")


@dataclass(frozen=True)
class Complaint:
    """What an error of jsonargparse says.

    Attributes:
        kind: a key of `COMPLAINTS`, or "" for words that are not known.
        path: keys down to where the complaint is.
        owner: the class that complains.
        names: what the complaint names, as its pattern in `COMPLAINTS` finds it.
        words: the complaint itself.
        wanted: types that a value might have had.
        found: the innermost value it quotes, in quotation marks, or None.
    """

    kind: str
    path: tuple[str, ...]
    owner: str | None
    names: tuple[str, ...]
    words: str
    wanted: tuple[str, ...]
    found: str | None


def read_complaint(message: str) -> Complaint:
    """The complaint in ``message``, which relies on the words and the indentation of jsonargparse 4.51 to 4.53."""
    path, owner, words, alternatives = _descend(message)
    kind, names = "", tuple[str, ...]()
    for name, pattern in COMPLAINTS.items():
        if match := pattern.match(words):
            kind, names = name, tuple(group or "" for group in match.groups())
            break
    wanted = [match[1] for line in alternatives if (match := _EXPECTED.match(line))]
    quoted = re.search(r"Got value: (.*)", message) or re.search(r"Given value: (.*)", message)
    found = repr(quoted[1]) if quoted else None
    return Complaint(kind, tuple(path), owner, names, words, tuple(dict.fromkeys(map(_type_name, wanted))), found)


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
        # the alternatives of a union stand side by side, equally deep
        same = [other.strip().removeprefix("- ") for other in lines[index:] if _indent(other) == indent]
        if path and path[-1] == "init_args" and any(COMPLAINTS[kind].match(text) for kind in _ABOUT_THE_CLASS):
            path.pop()
        return path, owner, _joined(text, lines[index + 1 :], indent), same
    return path, owner, " ".join(message.split()), []


def _joined(text: str, rest: Iterable[str], indent: int) -> str:
    """A complaint with its continuation lines, if it is plain text and no item of a union."""
    if any(COMPLAINTS[kind].match(text) for kind in _IN_ONE_LINE):
        return text
    for line in rest:
        if line.strip().startswith(("- ", *_SCAFFOLD)) or _indent(line) < indent:
            break
        text += " " + line.strip()
    return " ".join(text.split())


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _type_name(wanted: str) -> str:
    """``<class 'int'>`` as ``int``, ``typing.Literal['a', 'b']`` as ``one of 'a', 'b'``."""
    name = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", wanted)
    return re.sub(r"typing\.Literal\[(.*)\]", r"one of \1", name).replace("NoneType", "null")
