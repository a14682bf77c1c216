"""Weight files of every kind: mapped, private, whole or refused in one sentence."""

import io
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from components.errors import InputError
from components.weights.file import STEMS, open_weights, open_weights_file, save_weights

KINDS = ("safetensors", "bin")


def tensors() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(64, 64, generator=g),
        "a.bias": torch.randn(64, generator=g).bfloat16(),
        "b.count": torch.arange(4),
        "b.scale": torch.tensor(2.0),
        "b.none": torch.zeros(0, 3),
    }


def write(file: Path, content: dict[str, Tensor]) -> Path:
    save_file(content, file) if file.suffix == ".safetensors" else torch.save(content, file)
    return file


def write_shards(folder: Path, kind: str, stem: str = "diffusion_pytorch_model") -> Path:
    shards = {f"{stem}-0000{i + 1}-of-00002.{kind}": {} for i in range(2)}
    places = {}
    for i, (key, value) in enumerate(tensors().items()):
        name = list(shards)[i % 2]
        shards[name][key], places[key] = value, name
    for name, content in shards.items():
        write(folder / name, content)
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)


def mapping_of(tensor: Tensor) -> str:
    """The line of the process's memory map that covers the tensor."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        if start <= tensor.data_ptr() < end:
            return line
    raise AssertionError("not mapped")


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_usual_name_is_found(tmp_path: Path, kind: str, stem: str):
    file = write(tmp_path / f"{stem}.{kind}", tensors())
    weights = open_weights(tmp_path)
    assert_same(weights.tensors, tensors())
    assert (weights.files, weights.source) == ((file,), file)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("kind", KINDS)
def test_several_files_with_an_index(tmp_path: Path, kind: str, stem: str):
    index = write_shards(tmp_path, kind, stem)
    weights = open_weights(tmp_path)
    assert_same(weights.tensors, tensors())
    assert (len(weights.files), weights.source) == (2, index)


def test_safetensors_come_before_pickles(tmp_path: Path):
    write(tmp_path / "diffusion_pytorch_model.bin", {"a": torch.zeros(1)})
    write_shards(tmp_path, "safetensors", "pytorch_model")
    assert_same(open_weights(tmp_path).tensors, tensors())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's memory map")
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_private_mappings_of_the_file(tmp_path: Path, kind: str):
    file = write(tmp_path / f"model.{kind}", tensors())
    opened = open_weights_file(file).tensors
    for key in ("a.weight", "a.bias", "b.count"):
        line = mapping_of(opened[key])
        assert line.endswith(str(file))
        assert line.split()[1] == "rw-p"  # readable, writable, private


@pytest.mark.parametrize("kind", KINDS)
def test_writing_to_a_tensor_changes_neither_file_nor_neighbours(tmp_path: Path, kind: str):
    file = write(tmp_path / f"model.{kind}", tensors())
    before = file.read_bytes()
    opened = open_weights_file(file).tensors
    opened["a.weight"].fill_(7.0)
    opened["b.scale"].mul_(3.0)
    assert file.read_bytes() == before
    assert_same(open_weights_file(file).tensors, tensors())
    assert_same(opened, {**tensors(), "a.weight": torch.full((64, 64), 7.0), "b.scale": torch.tensor(6.0)})


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_is_saved_without_the_rest_of_its_file(tmp_path: Path, kind: str):
    """A checkpoint of some weights must not hold all of them."""
    opened = open_weights_file(write(tmp_path / f"model.{kind}", tensors())).tensors
    torch.save({"a.bias": opened["a.bias"]}, buffer := io.BytesIO())
    assert len(buffer.getvalue()) < 4096 < opened["a.weight"].nbytes


def test_a_file_may_be_replaced_while_it_is_mapped(tmp_path: Path):
    file = write(tmp_path / "model.safetensors", tensors())
    opened = open_weights_file(file).tensors
    write(tmp_path / "other.safetensors", {"a": torch.zeros(3)}).replace(file)
    assert_same(opened, tensors())


def test_views_in_a_pickle_become_tensors_of_their_own(tmp_path: Path):
    base = torch.arange(12.0)
    held = {"twice": base, "again": base, "part": base[2:5], "turned": base.view(3, 4).T, "all": base[:1].expand(5)}
    opened = open_weights_file(write(tmp_path / "model.bin", held)).tensors
    assert_same(opened, held)
    opened["twice"].zero_()
    assert torch.equal(opened["again"], base)
    opened["all"][0] = 9.0
    assert opened["all"].tolist() == [9.0, 0.0, 0.0, 0.0, 0.0]
    assert len({value.untyped_storage().data_ptr() for value in opened.values()}) == len(held)


def test_parameters_in_a_pickle_are_tensors(tmp_path: Path):
    torch.save({"w": torch.nn.Parameter(torch.ones(2))}, tmp_path / "model.bin")
    (tensor,) = open_weights_file(tmp_path / "model.bin").tensors.values()
    assert not tensor.requires_grad and not isinstance(tensor, torch.nn.Parameter)


def test_pickles_older_than_mapping(tmp_path: Path):
    torch.save(tensors(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_same(open_weights(tmp_path).tensors, tensors())


def test_writing_leaves_one_whole_file_that_others_may_read(tmp_path: Path):
    file, ordinary = tmp_path / "model.safetensors", tmp_path / "ordinary"
    ordinary.touch()
    save_weights(file, {**tensors(), "turned": torch.ones(2, 3).T}, torch.bfloat16)
    found = open_weights_file(file).tensors
    assert_same(
        found,
        {k: v.bfloat16() if v.is_floating_point() else v for k, v in tensors().items()}
        | {"turned": torch.ones(3, 2).bfloat16()},
    )
    assert file.stat().st_mode == ordinary.stat().st_mode
    save_weights(file, {key: value + 1 for key, value in found.items()})  # over the file they are mapped from
    assert_same(open_weights_file(file).tensors, {key: value + 1 for key, value in found.items()})
    before = file.read_bytes()
    with pytest.raises(RuntimeError):  # no values to write
        save_weights(file, {"a": torch.empty(3, device="meta")})
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "ordinary"]


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files(tmp_path: Path, kind: str, keep: int):
    file = write(tmp_path / f"model.{kind}", tensors())
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match=rf"model\.{kind}' is not a readable") as caught:
        open_weights(tmp_path)
    assert len(str(caught.value)) < 300 + len(str(file)) and "()" not in str(caught.value)


def test_truncated_old_pickle(tmp_path: Path):
    file = tmp_path / "model.bin"
    torch.save(tensors(), file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.bin' is not a readable"):
        open_weights(tmp_path)


class Malicious:
    def __reduce__(self):
        return os.system, ("echo code of a weights file ran",)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("write_it", [torch.save, lambda content, file: file.write_bytes(pickle.dumps(content))])
def test_code_is_named_and_never_run(tmp_path: Path, capfd: pytest.CaptureFixture[str], write_it):
    write_it({"w": Malicious()}, tmp_path / "model.bin")
    with pytest.raises(InputError, match=r"model\.bin' .* holds code.*never run; convert it to safetensors") as caught:
        open_weights(tmp_path)
    assert "weights_only=False" not in str(caught.value) and "\n" not in str(caught.value)
    assert "code of a weights file ran" not in capfd.readouterr().out


@pytest.mark.parametrize("content", [[1], {"step": 3}, {"state_dict": {"a": torch.zeros(1)}}, torch.zeros(2)])
def test_pickles_of_something_else(tmp_path: Path, content: object):
    torch.save(content, tmp_path / "model.bin")
    with pytest.raises(InputError, match=r"model\.bin' holds a \w+ that does not fit.*state_dict"):
        open_weights(tmp_path)


def test_empty_folders_and_folders_of_something_else(tmp_path: Path):
    with pytest.raises(InputError, match=r"diffusion_pytorch_model\.safetensors' does not exist.* holds nothing"):
        open_weights(tmp_path)
    (tmp_path / "model.onnx").touch()
    with pytest.raises(InputError, match=r"holds only model\.onnx"):
        open_weights(tmp_path)
    with pytest.raises(InputError, match="cannot list"):
        open_weights(tmp_path / "absent")
    with pytest.raises(InputError, match=r"absent\.bin' does not exist"):
        open_weights_file(tmp_path / "absent.bin")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}', "\x00"])
def test_broken_index(tmp_path: Path, text: str):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(InputError, match=r"model\.safetensors\.index\.json' (is no index|names no weight file)"):
        open_weights(tmp_path)


def test_index_with_an_absent_file(tmp_path: Path):
    write_shards(tmp_path, "safetensors")
    (tmp_path / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"1 weight file.*: diffusion_pytorch_model-00002-of-00002\.safetensors"):
        open_weights(tmp_path)


def test_index_that_does_not_fit_its_files(tmp_path: Path):
    index = write_shards(tmp_path, "safetensors")
    content = json.loads(index.read_text())
    content["weight_map"]["stranger"] = content["weight_map"]["a.weight"]
    index.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"00001-of-00002\.safetensors' lacks 1 tensor.* first stranger"):
        open_weights(tmp_path)


def test_index_that_leads_elsewhere(tmp_path: Path):
    (tmp_path / "inner").mkdir()
    write(tmp_path / "secret.safetensors", tensors())
    index = tmp_path / "inner" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a.weight": "../secret.safetensors"}}))
    with pytest.raises(InputError, match=r"names the weight file '\.\./secret\.safetensors', which is not beside it"):
        open_weights(tmp_path / "inner")
