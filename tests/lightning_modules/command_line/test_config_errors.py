import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from jsonargparse import ArgumentParser

from lightning_modules.command_line.config_errors import parse_error_sentence
from lightning_modules.command_line.config_files import config_files

HERE = __name__


class Part:
    """What a `Whole` is made of."""

    def __init__(self, dim: int, heads: int = 2):
        self.dim = dim


class WidePart(Part):
    def __init__(self, width: float = 1.0, **kwargs: int):
        super().__init__(**kwargs)

    @classmethod
    def loaded(cls, folder: str, scale: float = 1.0) -> "WidePart":
        return cls(width=scale)


def built_part(dim: int, heads: int = 2) -> Part:
    return Part(dim, heads)


class Whole:
    def __init__(
        self,
        part: Part,
        kind: Literal["a", "b"] = "a",
        size: int | str | None = None,
        rule: Callable[[int], WidePart] | None = None,
    ):
        self.part = part


def sentence(text, *more):
    """What is said about a configuration file with this text."""
    Path("x.yaml").write_text(text)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--devices", type=list[int] | int, default=1)
    parser.add_subclass_arguments(Whole, "model", required=True)
    args = ["--config", "x.yaml", *more]
    with pytest.raises(argparse.ArgumentError) as error:
        parser.parse_args(args)
    found = parse_error_sentence(str(error.value), args)
    assert "\n" not in found
    return found


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def whole(init_args="", part_args="dim: 4", part="Part"):
    init_args = f"{init_args}, " if init_args else ""
    part_spec = f"{{class_path: {HERE}.{part}, init_args: {{{part_args}}}}}"
    return f"model: {{class_path: {HERE}.Whole, init_args: {{{init_args}part: {part_spec}}}}}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (whole(part_args="dmi: 4"), "unknown key model.init_args.part.init_args.dmi; did you mean dim?"),
        (whole(part_args="colour: 4"), "unknown key model.init_args.part.init_args.colour; Part takes dim, heads"),
        (
            whole(part="built_part", part_args="dim: 4, haeds: 1"),
            "unknown key model.init_args.part.init_args.haeds; did you mean heads?",
        ),
        (
            whole(part="WidePart.loaded", part_args="folder: a, colour: 1"),
            "unknown key model.init_args.part.init_args.colour; WidePart.loaded takes folder, scale",
        ),
        (whole("colour: 1"), "unknown key model.init_args.colour; Whole takes part, kind, size, rule"),
        (
            whole(f"rule: {{class_path: {HERE}.WidePart, init_args: {{wdith: 1}}}}"),
            "unknown key model.init_args.rule.init_args.wdith; did you mean width?",
        ),
        ("- a\n", "a configuration file holds keys and their values, but '- a' was found; correct it"),
        (whole("kind: c"), "model.init_args.kind is 'c', but must be one of 'a', 'b'"),
        (whole("size: [1]"), "model.init_args.size is '[1]', but must be "),
        (whole(part_args="dim: four"), "model.init_args.part.init_args.dim is 'four', but must be int"),
        (whole(part_args="heads: 4"), f"model.init_args.part.init_args.dim must be given for {HERE}.Part; give it in"),
        (whole() + "steps: many\n", "steps is 'many', but must be int"),
        (whole() + "devices: [a]\n", "devices is 'a', but must be int"),
        (whole(part="Prat"), f"model.init_args.part names the class {HERE}.Prat, which does not exist; "),
        (
            whole().replace(f"{HERE}.Part", "NoSuch"),
            "model.init_args.part names the class NoSuch, which does not exist",
        ),
        (
            whole().replace(f"{HERE}.Part", "decimal.Decimal"),
            "model.init_args.part names decimal.Decimal, which is no Part; give a class that is",
        ),
        ("model: {a: [1}\n", "not valid YAML: "),
    ],
)
def test_key_value_and_fix_are_named(text, expected):
    assert sentence(text).startswith(f"x.yaml: {expected}")


def test_arguments_of_base_classes_are_accepted_ones():
    found = sentence(whole(part="WidePart", part_args="haeds: 4"))
    assert found == "x.yaml: unknown key model.init_args.part.init_args.haeds; did you mean heads?"


def test_the_command_line_is_named_where_it_is_at_fault():
    assert sentence(whole(), "--model.part.dmi", "4").startswith("command line: unknown key model.init_args.part.init_")
    assert sentence(whole(), "--model.kind=c").startswith("command line: model.init_args.kind is 'c'")
    assert sentence(whole(), "--stepz", "3").startswith("unknown option --stepz")


def test_only_files_that_hold_the_key_are_named():
    Path("y.yaml").write_text("steps: 3\n")
    assert sentence(whole("colour: 1"), "--config", "y.yaml").startswith("x.yaml: unknown key")
    assert sentence(whole() + "steps: many\n", "--config", "y.yaml").startswith("x.yaml or y.yaml: steps")


def test_a_callback_without_a_class():
    message = "Parser key \"callbacks.emma\":\n  Problem with given class_path 'lightning.pytorch.Callback':\n"
    message += "    Group 'init_args' does not accept option 'decay'"
    assert parse_error_sentence(message, []).startswith("callbacks.emma has no class_path; give one, or correct")


def test_null_for_a_class_that_is_needed():
    message = 'Parser key "model":\n  Problem with given class_path \'a.B\':\n    Parser key "net":\n'
    message += "      Expected a dot import path string: None\n  Given value: NestedArg(key='net', val=None)"
    found = parse_error_sentence(message, ["--model.net=null"])
    expected = "command line: model.init_args.net cannot be null; give a class name, or class_path and init_args"
    assert found == expected


def test_null_on_the_command_line():
    message = 'Parser key "model.dim":\n  Does not validate against any of the Union subtypes\n  Errors:\n'
    message += "    - Expected a <class 'int'>\n    - Expected a <class 'NoneType'>\n  Given value: None"
    found = parse_error_sentence(message, ["--model.dim=null"])
    assert found == "command line: model.dim cannot be set to null here; set it to null in a file given with --config"


def test_a_missing_section_and_a_missing_file_are_named():
    assert sentence("steps: 2\n").startswith("x.yaml: ") and "must be given" in sentence("steps: 2\n")
    assert "none.yaml" in sentence(whole(), "--config", "none.yaml")


def test_unknown_words_are_passed_on_in_one_line():
    assert parse_error_sentence("something\n  quite   new", []) == "something quite new"


def test_config_files_in_order():
    args = ["fit", "-c", "a.yaml", "--config=b.yaml", "--config", "c.yaml", "--x", "d.yaml"]
    assert config_files(args) == ["a.yaml", "b.yaml", "c.yaml"]
