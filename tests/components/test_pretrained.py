import hashlib

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from components import pretrained
from components.errors import InputError
from components.pretrained import load_safetensors, resolve_folder, sha256_of, sha256_of_tensors


def test_existing_folder_is_taken_as_given(tmp_path):
    assert resolve_folder(str(tmp_path)) == tmp_path


def test_packaged_folder_is_found_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_folder("components/metrics").samefile(pretrained.PACKAGE_ROOT / "components" / "metrics")


def test_working_directory_wins_over_the_package(tmp_path, monkeypatch):
    (tmp_path / "components").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_folder("components").samefile(tmp_path / "components")


def test_missing_folder_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"'weights/none' was not found.*configs/weights/none"):
        resolve_folder("weights/none")


def test_file_instead_of_folder(tmp_path):
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(InputError, match="is a file"):
        resolve_folder(file)


def test_round_trip_loads_parameters_and_buffers(tmp_path):
    torch.manual_seed(0)
    source, target = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2))
    source[1].running_mean.fill_(5.0)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    load_safetensors(target, tmp_path / "model.safetensors")
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value)


def test_half_precision_files_keep_the_dtype_of_the_module(tmp_path):
    module = nn.Linear(3, 4)
    save_file({k: v.bfloat16() for k, v in module.state_dict().items()}, tmp_path / "w.safetensors")
    load_safetensors(module, tmp_path / "w.safetensors")
    assert module.weight.dtype == torch.float32


def test_all_differences_come_in_one_error_and_nothing_is_loaded(tmp_path):
    module = nn.ModuleDict({"proj_in": nn.Linear(3, 4), "proj_out": nn.Linear(4, 3)})
    before = {k: v.clone() for k, v in module.state_dict().items()}
    state = {k: torch.zeros_like(v) for k, v in before.items()}
    state["project_in.weight"] = state.pop("proj_in.weight")
    state["proj_out.bias"] = torch.zeros(7)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError) as error:
        load_safetensors(module, tmp_path / "w.safetensors")
    message = str(error.value)
    assert "1 missing: proj_in.weight (nearest: project_in.weight)" in message
    assert "1 unexpected: project_in.weight (nearest: proj_in.weight)" in message
    assert "proj_out.bias (file [7], model [3])" in message
    assert all(torch.equal(module.state_dict()[k], v) for k, v in before.items())


def test_long_lists_are_cut_at_ten(tmp_path):
    save_file({f"block{i}": torch.zeros(1) for i in range(14)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"14 unexpected: .* and 4 more"):
        load_safetensors(nn.Linear(1, 1), tmp_path / "w.safetensors")


def test_damaged_and_absent_files(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_safetensors(nn.Linear(1, 1), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="does not exist"):
        load_safetensors(nn.Linear(1, 1), tmp_path / "absent.safetensors")


def test_sha256(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(b"abc" * 100_000)
    assert sha256_of(file) == hashlib.sha256(b"abc" * 100_000).hexdigest()
    with pytest.raises(InputError, match="cannot read"):
        sha256_of(tmp_path / "none")


def test_sha256_of_tensors_sees_names_shapes_types_and_values():
    tensors = {"a": torch.arange(6.0).view(2, 3), "scale": torch.tensor(2.0)}
    digest = sha256_of_tensors(tensors)
    assert sha256_of_tensors(dict(reversed(tensors.items()))) == digest
    others = [
        {"b": tensors["a"], "scale": tensors["scale"]},
        {**tensors, "a": tensors["a"].view(3, 2)},
        {**tensors, "a": tensors["a"].bfloat16()},
        {**tensors, "scale": torch.tensor(2.1)},
    ]
    assert len({sha256_of_tensors(other) for other in others} | {digest}) == 5
