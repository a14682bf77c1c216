"""Nulls for arguments of classes within classes, as options and as files say them."""

from __future__ import annotations

import pytest
from jsonargparse import ArgumentError, ArgumentParser

from lightning_modules.command_line.nulls import parse_with_nulls


class Detector:
    """Base of what is plugged in."""


class Seeker(Detector):
    """A detector that holds another one."""

    def __init__(self, inner: Detector | None = None, size: float = 1.0) -> None:
        self.inner, self.size = inner, size


class Judge:
    """Takes one detector, and perhaps a second one."""

    def __init__(self, first: Detector, second: Detector | None = None, share: float | None = 0.5) -> None:
        self.first, self.second, self.share = first, second, share


class Watcher:
    """A callback, say."""

    def __init__(self, judge: Judge, text: str | None = "x") -> None:
        self.judge, self.text = judge, text


HERE = __name__
GIVEN = [
    *("run", f"--callbacks.seen={HERE}.Watcher", f"--callbacks.seen.judge={HERE}.Judge"),
    *(f"--callbacks.seen.judge.first={HERE}.Seeker", f"--callbacks.seen.judge.second={HERE}.Seeker"),
    f"--callbacks.seen.judge.second.inner={HERE}.Detector",
]


def parser() -> ArgumentParser:
    of_run = ArgumentParser(exit_on_error=False)
    of_run.add_argument("--callbacks.seen", type=Watcher | None, default=None)
    whole = ArgumentParser(exit_on_error=False)
    whole.add_subcommands().add_subcommand("run", of_run)
    return whole


def judge_of(*options: str):
    return parse_with_nulls(parser(), [*GIVEN, *options]).run.callbacks.seen.init_args.judge.init_args


@pytest.mark.parametrize("given", [("=null",), (" null",)])
@pytest.mark.parametrize("prefix", ["callbacks.seen.judge.", "callbacks.seen.init_args.judge.init_args."])
def test_a_class_of_a_class(prefix: str, given: tuple[str]):
    found = judge_of(*f"--{prefix}second{given[0]}".split(" "))
    assert found.second is None and found.first.class_path == f"{HERE}.Seeker" and found.share == 0.5


def test_deeper_and_several_at_once():
    found = judge_of("--callbacks.seen.judge.second.inner=null", "--callbacks.seen.judge.share", "null")
    assert found.second.init_args.inner is None and found.share is None and found.second.init_args.size == 1.0


def test_the_last_word_counts():
    found = judge_of("--callbacks.seen.judge.share=null", "--callbacks.seen.judge.share=0.25")
    assert found.share == 0.25
    found = judge_of("--callbacks.seen.judge.share=0.25", "--callbacks.seen.judge.share=null")
    assert found.share is None


def test_without_subcommand():
    alone = ArgumentParser(exit_on_error=False)
    alone.add_argument("--callbacks.seen", type=Watcher | None, default=None)
    found = parse_with_nulls(alone, [*GIVEN[1:], "--callbacks.seen.judge.second=null"])
    assert found.callbacks.seen.init_args.judge.init_args.second is None


@pytest.mark.parametrize("key", ["first", "second.size", "secnod"])
def test_what_cannot_be_null_is_the_parsers_to_refuse(key: str):
    with pytest.raises(ArgumentError):
        judge_of(f"--callbacks.seen.judge.{key}=null", "--callbacks.seen.judge.share=null")
