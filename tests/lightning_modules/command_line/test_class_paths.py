"""A class path that leads nowhere: which file was looked for and where, or which line of it is broken."""

import importlib.util
import sys
from pathlib import Path

import pytest
import yaml

from components.v2a.onset_v2a import OnsetV2A
from lightning_modules.command_line.class_paths import class_path_sentence, import_problem
from lightning_modules.command_line.cli import main


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that is searched last, as the command has it."""
    monkeypatch.chdir(tmp_path)
    # working directories of commands that other tests have run may hold a folder of the same name
    temporary = str(tmp_path.parents[1])
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not entry.startswith(temporary)])
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def test_a_missing_file_is_named_with_the_folders_searched(place: Path):
    problem = import_problem("my_v2as.nested.MyV2A")
    assert problem.startswith("but there is neither a file my_v2as.py nor a folder my_v2as (searched: ")
    searched = problem.partition("searched: ")[2].partition(")")[0].split(", ")
    assert str(place) in searched and all(Path(folder).is_dir() for folder in searched)
    assert not any((Path(folder) / "os.py").exists() for folder in searched)
    assert problem.endswith("; put it into the working directory, or correct the name")
    assert import_problem("compnents.v2a.OnsetV2A").endswith(f"; did you mean {OnsetV2A.__name__}?")


@pytest.mark.skipif(importlib.util.find_spec("torchao") is not None, reason="torchao is installed")
def test_a_library_of_optimizers_that_is_missing_is_named_with_what_brings_it():
    for option in ("torchao.optim.AdamW8bit", "{class_path: torchao.optim.AdamW8bit}"):
        assert class_path_sentence(["fit", "--model.optimizer", option]).endswith(
            "names torchao.optim.AdamW8bit, but torchao is not installed: pip install 'avsync[optim]'"
        )


def test_a_missing_file_of_a_package_is_named(place: Path):
    (place / "half").mkdir()
    assert import_problem("half.v2a.MyV2A") == (
        f"but there is no file v2a.py (searched: {place / 'half'}); correct the name"
    )
    assert import_problem("half.MyV2A") == (
        f"but '{place / 'half'}' has no __init__.py that defines MyV2A; correct the name"
    )
    (place / "half" / "v2a.py").write_text("class MyV2A:\n    @classmethod\n    def load(cls): ...\n")
    file = place / "half" / "v2a.py"
    assert import_problem("half.v2a.MyV2A") is import_problem("half.v2a.MyV2A.load") is None
    assert import_problem("half.v2a.MyV3A") == f"but '{file}' has no MyV3A; did you mean MyV2A?"
    assert import_problem("half.v2a.MyV2A.laod") == "but MyV2A has no laod; did you mean load?"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("import os\n\nimport no_such_library\n", 3, "ModuleNotFoundError: No module named 'no_such_library'"),
        ("from os import no_such_name\n", 1, "ImportError: cannot import name 'no_such_name' from 'os'"),
        ("\nclass MyV2A\n", 2, "SyntaxError: expected ':'"),
        ("def f():\n    raise OSError('no\\n  disk')\n\nf()\n", 2, "OSError: no disk"),
        ("import json\njson.loads('{')\n", 2, "JSONDecodeError: Expecting property name"),
    ],
)
def test_an_error_inside_is_told_with_its_file_and_line(place: Path, text: str, line: int, words: str):
    package = place / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("from mine.v2a import MyV2A\n")
    (package / "v2a.py").write_text(text)
    problem = import_problem("mine.MyV2A")
    assert problem.startswith(f"which cannot be imported: '{package / 'v2a.py'}', line {line}: {words}")
    assert "\n" not in problem


@pytest.mark.parametrize("shape", ["class_path", "alone"])
@pytest.mark.parametrize("text", ["import no_such_library\n", "class MyModel\n", "raise OSError('no disk')\n", None])
def test_the_command_says_it_in_one_sentence(place: Path, capsys: pytest.CaptureFixture[str], text, shape: str):
    if text is not None:
        (place / "mine.py").write_text(text)
    model = {"class_path": "mine.MyModel"} if shape == "class_path" else "mine.MyModel"
    (place / "run.yaml").write_text(yaml.safe_dump({"model": model, "data": "AVSync15"}))
    assert main(["validate", "--config", "run.yaml"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0].startswith("error: run.yaml: model names mine.MyModel, ")
    assert (f"'{place / 'mine.py'}', line 1: " if text else "neither a file mine.py nor") in errors[0]


def test_values_that_only_look_like_class_paths_are_left_alone(place: Path):
    content = {"data": {"class_path": "os.path", "init_args": {"a": "clip.MP4", "b": "tests.x", "c": "audio.wav"}}}
    (place / "run.yaml").write_text(yaml.safe_dump(content))
    assert class_path_sentence(["fit", "--config", "run.yaml", "--data.root", "my.Folder", "--d", "{"]) is None
