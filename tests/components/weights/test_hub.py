"""Which names mean a repository of the hub, in which revision, and that paths are never asked for there."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import constants

from components.backbones.pyramid_flow import pretrained_backbone
from components.encoders.audio.denseav import DenseAVEncoder
from components.encoders.audio.whisper import WhisperAudioEncoder
from components.encoders.text.pyramid_flow_folder import PyramidFlowTextFolder
from components.encoders.transcript.cached import TranscriptFolder
from components.errors import InputError
from components.weights.hub import HubName, hub_name
from components.weights.identity import identity_of
from components.weights.places import PACKAGE_ROOT
from components.weights.pretrained import check_found, find_file, find_folder, pretrained_config, resolve_folder
from tests.public_folders.denseav import write_hub_folder

REVISION = "d" * 40


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, no connection, and an empty working directory."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "hub"


def downloaded(cache: Path, repository: str, source: Path, revision: str = "main", commit: str = "c" * 40) -> None:
    """What the hub's client leaves in its cache of a repository that holds ``source``."""
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / revision).write_text(commit)
    shutil.copytree(source, root / "snapshots" / commit)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("hf://owner/name", HubName("owner/name")),
        ("hf://owner/name.v2_x@main", HubName("owner/name.v2_x", "main")),
        ("hf://owner/name@refs/pr/1", HubName("owner/name", "refs/pr/1")),
        (f"hf://weights/name@{REVISION}", HubName("weights/name", REVISION)),
        (Path("hf://owner/name"), HubName("owner/name")),
        ("owner/name", HubName("owner/name")),
        ("weights/avsync15_v2a", None),
        ("Runs/stage1", None),
        ("configs/harmony", None),
        ("exported/model", None),
        ("components/none", None),
        ("./owner/name", None),
        ("owner/name/vae", None),
        ("name", None),
        (Path("owner/name"), None),
    ],
)
def test_what_a_name_means(name: str | Path, meant: HubName | None):
    assert hub_name(name) == meant


@pytest.mark.parametrize(
    "name", ["hf://name", "hf://owner/name/vae", "hf://owner/name@", "hf:/owner/name", "HF://owner/name", "hf:owner/n"]
)
@pytest.mark.parametrize("use", [hub_name, resolve_folder, pretrained_config, check_found])
def test_what_is_no_address_gets_a_sentence(name: str, use):
    with pytest.raises(InputError, match=rf"'{name}' is no name of a hub repository; write hf://owner/name, or"):
        use(name)


def test_a_folder_that_is_here_makes_its_name_a_path():
    assert hub_name("mine/model") is not None
    Path("mine").mkdir()
    assert hub_name("mine/model") is None


@pytest.mark.parametrize("name", ["weights/avsync15_v2a", "runs/judge", "configs/none", "data/none"])
def test_a_path_is_never_asked_for_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(
        InputError, match=rf"'{name}' was not found \(looked for '.*hub repository as 'hf://owner/name'"
    ):
        resolve_folder(name)


def test_an_address_is_never_looked_for_on_this_disk(hub_cache: Path):
    for name in ("hf:/owner/name", "owner/name"):
        Path(name).mkdir(parents=True)
        (Path(name) / "config.json").write_text('{"here": true}')
    assert find_folder("hf://owner/name") is None and find_file("hf://owner/name/config.json") is None
    with pytest.raises(InputError, match=r"'hf://owner/name' was not found \(looked on the Hugging Face hub \(which"):
        resolve_folder("hf://owner/name")
    downloaded(hub_cache, "owner/name", PACKAGE_ROOT / "configs/weights/quickstart_v2a")
    assert resolve_folder("hf://owner/name").is_relative_to(hub_cache)
    assert find_folder("owner/name") == Path("owner/name").absolute()


def test_a_revision_is_what_the_hub_is_asked_for(hub_cache: Path, tmp_path: Path):
    for branch, commit in (("main", "c" * 40), ("old", REVISION)):
        (tmp_path / branch).mkdir()
        (tmp_path / branch / "config.json").write_text(f'{{"branch": "{branch}"}}')
        downloaded(hub_cache, "owner/name", tmp_path / branch, branch, commit)
    for name, branch in (("", "main"), ("@old", "old"), (f"@{REVISION}", "old"), ("@main", "main")):
        assert pretrained_config(f"hf://owner/name{name}")[1] == {"branch": branch}
    with pytest.raises(InputError, match=r"'hf://owner/name@none' was not found"):
        resolve_folder("hf://owner/name@none")


def test_weights_are_found_missing_without_a_download(monkeypatch: pytest.MonkeyPatch):
    check_found("configs/weights/quickstart_v2a")
    for name in ("weights/none", "/none", "hf://owner/name"):
        with pytest.raises(InputError, match=rf"'{name}' was not found"):
            check_found(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    check_found("hf://owner/name", "vae")  # may be there: fetching tells


@pytest.mark.parametrize("revision", ["", "@main"])
def test_public_shapes_are_known_by_the_repository(revision: str):
    with torch.device("meta"):
        backbone = pretrained_backbone(f"hf://rain1011/pyramid-flow-miniflux{revision}", "diffusion_transformer_384p")
        assert sum(parameter.numel() for parameter in backbone.parameters()) > 1.9e9
        assert DenseAVEncoder(f"hf://mhamilton723/DenseAV-sound{revision}").dim == 1024
        assert WhisperAudioEncoder(f"hf://openai/whisper-base{revision}").dim == 512
        assert PyramidFlowTextFolder(f"hf://rain1011/pyramid-flow-sd3{revision}", "sd3").dim == 4096
        assert TranscriptFolder(f"hf://google/byt5-small{revision}").dim == 1472


def test_the_same_weights_by_either_name(hub_cache: Path, tmp_path: Path):
    downloaded(hub_cache, "owner/denseav", write_hub_folder(tmp_path / "denseav"))
    plain, address = DenseAVEncoder("owner/denseav"), DenseAVEncoder("hf://owner/denseav")
    assert identity_of(plain).sha256 == identity_of(address).sha256
    assert (identity_of(plain).name, identity_of(address).name) == ("owner/denseav", "hf://owner/denseav")


def test_shipped_configurations_say_which_names_are_on_the_hub():
    """Every other name of theirs begins with a folder's name."""
    bare, addresses = [], []
    for file in (PACKAGE_ROOT / "configs").rglob("*.yaml"):
        waiting = [yaml.safe_load(file.read_text())]
        while waiting:
            item = waiting.pop()
            if isinstance(item, dict | list):
                waiting += item.values() if isinstance(item, dict) else item
            elif isinstance(item, str) and item.startswith("hf:"):
                addresses.append(hub_name(item))
            elif isinstance(item, str) and hub_name(item) is not None:
                bare.append((file.name, item))
    assert bare == [] and len(addresses) >= 8
