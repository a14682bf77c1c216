"""A folder appears whole or not at all."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from components.errors import InputError
from components.weights.file import open_weights, save_weights
from components.weights.identity import SUMS_FILE
from components.weights.whole_folder import whole_folder


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_a_folder_replaces_the_old_one_when_it_is_done(tmp_path: Path):
    target = tmp_path / "deep" / "model"
    for content in ("old", "new"):
        with whole_folder(target) as partial:
            (partial / content).write_text(content)
            assert not (target / content).exists()
    assert names(target) == {"new", SUMS_FILE}
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path):
    """`safetensors` and `tempfile` make files that nobody else can read."""
    (tmp_path / "ordinary").touch()
    with whole_folder(tmp_path / "model") as partial:
        save_file({"a": torch.zeros(2)}, partial / "diffusion_pytorch_model.safetensors")
        (partial / "config.json").write_text("{}")
    modes = {file.name: file.stat().st_mode for file in (tmp_path / "model").iterdir()}
    assert len(modes) == 3 and set(modes.values()) == {(tmp_path / "ordinary").stat().st_mode}


def test_a_failure_leaves_the_old_one(tmp_path: Path):
    target = tmp_path / "model"
    with whole_folder(target) as partial:
        (partial / "old").touch()
    with pytest.raises(RuntimeError), whole_folder(target) as partial:
        (partial / "half").touch()
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert names(target) == {"old", SUMS_FILE}


def test_leftovers_of_a_killed_run_do_no_harm(tmp_path: Path):
    (tmp_path / ".model.part").mkdir()
    (tmp_path / ".model.part" / "half").touch()
    with whole_folder(tmp_path / "model") as partial:
        (partial / "whole").touch()
    assert names(tmp_path / "model") == {"whole", SUMS_FILE}


def test_targets_that_cannot_be_made(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("kept")
    for target, problem in ((file, "is a file"), (file / "in", "cannot be made"), (Path(), "cannot be replaced")):
        with pytest.raises(InputError, match=problem), whole_folder(target):
            raise AssertionError("the block must not run")
    assert file.read_text() == "kept" and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path: Path):
    target = tmp_path / "model"
    (target / "sub").mkdir(parents=True)
    (target / "sub" / "thesis.txt").write_text("years of work")
    sentence = r"model' holds sub/thesis\.txt, which would be deleted; give the name of a new folder"
    with pytest.raises(InputError, match=sentence), whole_folder(target):
        raise AssertionError("the block must not run")
    (target / "sub" / "thesis.txt").rename(tmp_path / "thesis.txt")
    with whole_folder(target) as partial:  # empty folders are nobody's work
        (partial / "new").touch()
    (tmp_path / "thesis.txt").rename(target / "thesis.txt")
    with pytest.raises(InputError, match=r"holds thesis\.txt, which"), whole_folder(target):
        raise AssertionError("the block must not run")
    assert (target / "thesis.txt").read_text() == "years of work"


def test_weights_are_compared_with_their_digests(tmp_path: Path):
    target = tmp_path / "model"
    with whole_folder(target) as partial:
        (partial / "transformer").mkdir()
        for folder in (partial, partial / "transformer"):
            save_weights(folder / "model.safetensors", {"weight": torch.ones(5000)})
    assert shutil.which("sha256sum") is None or subprocess.run(
        ["sha256sum", "--check", "--strict", SUMS_FILE], cwd=target, capture_output=True, check=True
    )
    for folder in (target, target / "transformer"):
        assert open_weights(folder).tensors["weight"].sum() == 5000
        file = folder / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[8192:12288] = bytes(4096)  # a block the disk has lost
        file.write_bytes(data)
        with pytest.raises(InputError, match=r"model\.safetensors' is damaged or was changed: its SHA-256 is not"):
            open_weights(folder)


def test_writing_into_an_export_renews_its_digest(tmp_path: Path):
    target = tmp_path / "model"
    for _ in range(2):  # an export that is made of another
        with whole_folder(target) as partial, whole_folder(partial) as inner:
            save_weights(inner / "model.safetensors", {"weight": torch.ones(3)})
    assert names(target) == {"model.safetensors", SUMS_FILE}
    save_weights(target / "model.safetensors", {"weight": torch.zeros(3)})
    assert open_weights(target).tensors["weight"].sum() == 0
    with whole_folder(target) as partial:
        (partial / "new").touch()
    assert names(target) == {"new", SUMS_FILE}
