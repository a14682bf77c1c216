"""Finding folders, here and on the hub, reading configs, and loading modules from them."""

from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save_file
from torch import nn

from components.errors import InputError
from components.weights import pretrained
from components.weights.identity import identity_of, sha256_of
from components.weights.pretrained import (
    builds_shapes_only,
    dtype_named,
    load_module,
    load_safetensors,
    pretrained_config,
    read_config,
    resolve_folder,
)


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and no connection."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def downloaded(cache: Path, repository: str, *files: str) -> Path:
    """A snapshot as the hub's client leaves it in its cache."""
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("c" * 40)
    for name in files:
        file = root / "snapshots" / ("c" * 40) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    return root / "snapshots" / ("c" * 40)


# --- folders on this disk --------------------------------------------------------------------------------------------


def test_existing_folder_is_taken_as_given(tmp_path):
    assert resolve_folder(str(tmp_path)) == tmp_path


def test_subfolder(tmp_path):
    (tmp_path / "release" / "vae").mkdir(parents=True)
    assert resolve_folder(tmp_path / "release", "vae") == tmp_path / "release" / "vae"
    (tmp_path / "release" / "vae" / "config.json").touch()
    with pytest.raises(InputError, match=r"release' has no subfolder 'vea' \(subfolders that have one: vae\)"):
        resolve_folder(tmp_path / "release", "vea")


def test_packaged_folder_is_found_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metrics = pretrained.PACKAGE_ROOT / "components" / "metrics"
    assert resolve_folder("components/metrics").samefile(metrics)
    assert resolve_folder("components", "metrics").samefile(metrics)


def test_working_directory_wins_over_the_package(tmp_path, monkeypatch):
    (tmp_path / "components").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_folder("components").samefile(tmp_path / "components")


def test_missing_folder_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"'weights/none' was not found.*configs/weights/none") as caught:
        resolve_folder("weights/none")
    assert str(tmp_path / "weights" / "none") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_instead_of_folder(tmp_path):
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(InputError, match="is a file"):
        resolve_folder(file)


# --- the hub ---------------------------------------------------------------------------------------------------------


def test_a_downloaded_repository_is_found_without_a_connection(hub_cache):
    snapshot = downloaded(hub_cache, "owner/name", "config.json", "vae/config.json")
    assert resolve_folder("owner/name") == snapshot
    assert resolve_folder("owner/name", "vae") == snapshot / "vae"
    with pytest.raises(InputError, match=r"'owner/name/dit' was not found.*hub .*has no files in 'dit'"):
        resolve_folder("owner/name", "dit")


@pytest.mark.parametrize("subfolder", [None, "vae"])
def test_nothing_downloaded_and_no_connection(subfolder):
    with pytest.raises(
        InputError, match=r"'owner/name.*on the Hugging Face hub \(which cannot be reached.*does not have it"
    ):
        resolve_folder("owner/name", subfolder)


def test_a_repository_that_does_not_exist(monkeypatch):
    def refuse(*_, **__):
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError, "404")  # without the response it describes

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match=r"'owner/name' was not found.*no such repository, or a private one"):
        resolve_folder("owner/name")


REPOSITORY = (
    "README.md",
    "config.json",
    "model.safetensors",
    "tf_model.h5",
    "dit/config.json",
    "vae/config.json",
    "vae/model.safetensors",
    "vae/onnx/model.onnx",
    "vae/flax_model.msgpack",
)


@pytest.mark.parametrize(
    ("subfolder", "pattern", "wanted"),
    [
        ("vae", "*", ["vae/config.json", "vae/model.safetensors"]),
        ("vae", "config.json", ["vae/config.json"]),
        (None, "*", ["README.md", "config.json", "model.safetensors"]),
    ],
)
def test_only_the_files_of_the_folder_are_fetched(tmp_path, monkeypatch, subfolder, pattern, wanted):
    """The hub's client is replaced by its own file filter."""
    fetched = []

    def snapshot_download(
        _repository: str, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]
    ) -> str:
        assert revision is None
        chosen = filter_repo_objects(REPOSITORY, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        for name in chosen:
            fetched.append(name)
            (tmp_path / "snapshot" / name).parent.mkdir(parents=True, exist_ok=True)
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    resolve_folder("owner/name", subfolder, pattern)
    assert fetched == wanted


@pytest.mark.parametrize("name", ["/owner/name", "./owner/name", "~/name", "a/b/c", "name", "components/none"])
def test_paths_are_not_looked_for_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(InputError, match="was not found"):
        resolve_folder(name)


# --- configs ---------------------------------------------------------------------------------------------------------


def test_config(tmp_path):
    (tmp_path / "config.json").write_text('{"dim": 3}')
    assert read_config(tmp_path) == {"dim": 3}
    assert pretrained_config(tmp_path) == (tmp_path, {"dim": 3})


@pytest.mark.parametrize(
    ("content", "message"), [(b"{", "is not valid JSON"), (b"[]", "holds a list"), (b"\xff\xfe{", "is not valid JSON")]
)
def test_broken_config(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"config\.json {message}"):
        read_config(tmp_path)


def test_a_release_instead_of_one_of_its_folders(tmp_path):
    for name in ("text_encoder", "vae"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    with pytest.raises(InputError, match=r"config\.json does not exist.*subfolders that have one: text_encoder, vae"):
        read_config(tmp_path)
    with pytest.raises(InputError, match=r"whole release; set subfolder to one of diffusion_transformer_384p, "):
        pretrained_config("rain1011/pyramid-flow-miniflux")


def test_dtypes():
    assert (dtype_named("bfloat16"), dtype_named(None), dtype_named(torch.float16)) == (
        torch.bfloat16,
        None,
        torch.half,
    )
    with pytest.raises(InputError, match=r"dtype is 'int8'; give one of float32"):
        dtype_named("int8")


# --- modules ---------------------------------------------------------------------------------------------------------


def test_a_module_is_loaded_and_says_what_it_is(tmp_path):
    source = nn.Linear(3, 4)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    loaded = load_module(lambda: nn.Linear(3, 4), tmp_path, "my/model")
    assert torch.equal(loaded.weight, source.weight) and loaded.weight.requires_grad
    assert identity_of(loaded).name == "my/model"
    assert identity_of(loaded).sha256 == sha256_of(tmp_path / "model.safetensors")


def test_only_shapes_are_built_on_meta(tmp_path):
    assert not builds_shapes_only()
    with torch.device("meta"):
        assert builds_shapes_only()
        loaded = load_module(lambda: nn.Linear(3, 4), tmp_path / "none", "my/model", torch.bfloat16)
        load_safetensors(loaded, tmp_path / "none.safetensors")
    assert loaded.weight.is_meta and loaded.weight.dtype == torch.bfloat16


def test_round_trip_loads_parameters_and_buffers(tmp_path):
    torch.manual_seed(0)
    source, target = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2))
    source[1].running_mean.fill_(5.0)
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    load_safetensors(target, tmp_path / "model.safetensors", "mine")
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value)
    assert identity_of(target).name == "mine"


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
