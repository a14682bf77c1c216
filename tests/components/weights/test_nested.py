import collections
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from components.errors import InputError
from components.weights.nested import open_nested_weights

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


@dataclass
class Settings:
    rate: float
    parts: list


def touch(path):
    Path(path).touch()


class Trap:
    """Writes a file when it is built."""

    def __init__(self, function, path):
        self.function, self.path = function, str(path)

    def __reduce__(self):
        return self.function, (self.path,)


def checkpoint(tmp_path, **held):
    file = tmp_path / "run.pt"
    torch.save(held, file)
    return file


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_plain_state_dict_is_read_whole(tmp_path):
    file = checkpoint(tmp_path, **TENSORS)
    weights = open_nested_weights(file, "model")
    assert same(weights.tensors, TENSORS) and weights.files == (file,) and weights.source == file


def test_settings_and_metrics_beside_the_weights_are_passed_over(tmp_path):
    file = checkpoint(
        tmp_path,
        args=Settings(0.1, [{"deep": Settings(1.0, [])}]),
        metrics={"loss": np.float64(2.0), "names": np.array(["a"])},
        counts=collections.defaultdict(list),
        epoch=3,
        model=TENSORS,
    )
    assert same(open_nested_weights(file, "model").tensors, TENSORS)


@pytest.mark.parametrize("function", [touch, Path.touch, os.mkdir])
def test_what_is_passed_over_is_never_run(tmp_path, function):
    """A function of a module is passed over; what pickle reaches through another object, or in ``os``, is refused."""
    trace = tmp_path / "trace"
    file = checkpoint(tmp_path, args=Trap(function, trace), model=TENSORS)
    if function is touch:
        torch.load(file, weights_only=False)
        assert trace.exists()
        trace.unlink()
        assert same(open_nested_weights(file, "model").tensors, TENSORS)
    else:
        with pytest.raises(InputError, match="holds objects that cannot be passed over, and their code is never run"):
            open_nested_weights(file, "model")
    assert not trace.exists()


def test_nothing_is_allowed_that_was_not_before(tmp_path):
    file = checkpoint(tmp_path, args=Settings(0.1, []), model=TENSORS)
    before = set(torch.serialization.get_safe_globals())
    open_nested_weights(file, "model")
    assert set(torch.serialization.get_safe_globals()) == before


def test_objects_among_the_weights_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"run\.pt' holds something else than named tensors under 'model'"):
        open_nested_weights(checkpoint(tmp_path, model={**TENSORS, "settings": Settings(0.1, [])}), "model")
    with pytest.raises(InputError, match=r"something else than named tensors under 'model'"):
        open_nested_weights(checkpoint(tmp_path, model=Settings(0.1, [])), "model")
    # without the key, nothing but tensors may be there
    with pytest.raises(InputError, match=r"holds code \(tests\."):
        open_nested_weights(checkpoint(tmp_path, args=Settings(0.1, []), **TENSORS), "model")


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InputError, match=r"'.*absent\.pt' does not exist"):
        open_nested_weights(tmp_path / "absent.pt", "model")
    file = checkpoint(tmp_path, model=TENSORS)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"run\.pt' is not a readable pickle"):
        open_nested_weights(file, "model")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"run\.pt' cannot be read"):
        open_nested_weights(file, "model")


def test_the_format_before_torch_1_6(tmp_path):
    file = tmp_path / "old.pth"
    torch.save(TENSORS, file, _use_new_zipfile_serialization=False)
    assert same(open_nested_weights(file, "model").tensors, TENSORS)


def test_a_wrong_sum_is_noticed(tmp_path):
    file = checkpoint(tmp_path, args=Settings(0.1, []), model=TENSORS)
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  run.pt\n")
    with pytest.raises(InputError, match="is damaged or was changed"):
        open_nested_weights(file, "model")


def test_views_become_tensors_of_their_own(tmp_path):
    base = torch.arange(6.0)
    found = open_nested_weights(checkpoint(tmp_path, epoch=1, model={"a": base[:3], "b": base[2:]}), "model").tensors
    found["a"][2] = 9.0
    assert found["b"][0] == 2.0
    save_file(found, tmp_path / "copy.safetensors")
