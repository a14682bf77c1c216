"""A folder appears whole or not at all."""

from pathlib import Path

import pytest

from components.errors import InputError
from components.weights.whole_folder import whole_folder


def test_a_folder_replaces_the_old_one_when_it_is_done(tmp_path: Path):
    target = tmp_path / "deep" / "model"
    for content in ("old", "new"):
        with whole_folder(target) as partial:
            (partial / content).write_text(content)
            assert not (target / content).exists()
    assert [file.name for file in target.iterdir()] == ["new"]
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_a_failure_leaves_the_old_one(tmp_path: Path):
    target = tmp_path / "model"
    with whole_folder(target) as partial:
        (partial / "old").touch()
    with pytest.raises(RuntimeError), whole_folder(target) as partial:
        (partial / "half").touch()
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [file.name for file in target.iterdir()] == ["old"]


def test_leftovers_of_a_killed_run_do_no_harm(tmp_path: Path):
    (tmp_path / ".model.part").mkdir()
    (tmp_path / ".model.part" / "half").touch()
    with whole_folder(tmp_path / "model") as partial:
        (partial / "whole").touch()
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["whole"]


def test_targets_that_cannot_be_made(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("kept")
    for target, problem in ((file, "is a file"), (file / "in", "cannot be made"), (Path(), "cannot be replaced")):
        with pytest.raises(InputError, match=problem), whole_folder(target):
            raise AssertionError("the block must not run")
    assert file.read_text() == "kept" and [path.name for path in tmp_path.iterdir()] == ["file"]
