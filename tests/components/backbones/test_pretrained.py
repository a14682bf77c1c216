"""Transformers in folders of the public layout: round trips, and what is said about damaged folders."""

import json
from pathlib import Path

import pytest
import torch

from components.backbones.column import Column
from components.backbones.miniflux import MiniFluxTransformer
from components.backbones.pretrained import pretrained_backbone
from components.errors import InputError
from tests.tiny_syncphony import VARIANTS, latents, text_features, tiny_backbone


@pytest.fixture(params=VARIANTS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    tiny_backbone(request.param).save_pretrained(tmp_path / "saved" / request.param)
    return tmp_path / "saved" / request.param


def test_round_trip(folder: Path):
    before, after = tiny_backbone(folder.name), pretrained_backbone(str(folder))
    assert type(after) is type(before)
    assert after.config == before.config
    assert before.state_dict().keys() == after.state_dict().keys()
    assert all(torch.equal(value, after.state_dict()[key]) for key, value in before.state_dict().items())
    column = Column([latents(1, 1)], torch.tensor([200.0]), text_features(1))
    with torch.no_grad():  # mapped weights lie at other addresses, for which matrix products may round otherwise
        torch.testing.assert_close(before([column])[0], after([column])[0], rtol=1e-5, atol=1e-5)


def test_no_partial_file_is_left_or_seen(folder: Path):
    names = ["config.json", "diffusion_pytorch_model.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names
    before = [(folder / name).read_bytes() for name in names]
    other = tiny_backbone(folder.name, seed=1)
    other.config["impossible"] = object()  # cannot be written as JSON: fails half-way
    with pytest.raises(TypeError):
        other.save_pretrained(folder)
    assert [(folder / name).read_bytes() for name in names] == before


def test_bfloat16_export_is_half_the_size_and_close(tmp_path: Path):
    backbone = tiny_backbone("miniflux")
    for dtype in (torch.float32, torch.bfloat16):
        backbone.save_pretrained(tmp_path / str(dtype), dtype)
    sizes = [
        (tmp_path / str(d) / "diffusion_pytorch_model.safetensors").stat().st_size
        for d in (torch.float32, torch.bfloat16)
    ]
    assert sizes[1] < 0.6 * sizes[0]
    back = pretrained_backbone(str(tmp_path / "torch.bfloat16"))
    for key, value in backbone.state_dict().items():
        assert torch.equal(back.state_dict()[key], value.bfloat16().float())


def test_rotary_base_is_kept(tmp_path: Path):
    backbone = MiniFluxTransformer(8, 1, 1, 8, 1, 4, 4, (2, 2, 4), rope_theta=30.0)
    backbone.save_pretrained(tmp_path / "model")
    assert pretrained_backbone(str(tmp_path / "model")).config == backbone.config


def test_saving_again_gives_the_same_files(folder: Path, tmp_path: Path):
    pretrained_backbone(str(folder)).save_pretrained(tmp_path / "again")
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_release_without_a_class_name_is_told_by_its_fields(folder: Path):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    del config["_class_name"]
    file.write_text(json.dumps({**config, "_diffusers_version": "0.30.0", "use_flash_attn": False}))
    assert type(pretrained_backbone(str(folder))) is type(tiny_backbone(folder.name))


def test_wrong_class_name(folder: Path):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "_class_name": "UNet2DModel"}))
    with pytest.raises(InputError, match=r"config.json names the class 'UNet2DModel'.*PyramidFluxTransformer"):
        pretrained_backbone(str(folder))


@pytest.mark.parametrize("text", ["{", "", "\x00\x01", "[1, 2]", '"miniflux"'])
def test_broken_json(folder: Path, text: str):
    (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        pretrained_backbone(str(folder))


def test_json_that_is_no_text(folder: Path):
    (folder / "config.json").write_bytes(b"\xff\xfe\x00{}")
    with pytest.raises(InputError, match=r"config\.json"):
        pretrained_backbone(str(folder))


@pytest.mark.parametrize("name", ["config.json", "diffusion_pytorch_model.safetensors"])
def test_missing_file(folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        pretrained_backbone(str(folder))


def test_missing_folder(tmp_path: Path):
    with pytest.raises(InputError, match="nowhere"):
        pretrained_backbone(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("keep", [0, 7, 1000, -1])
def test_truncated_weights(folder: Path, keep: int):
    file = folder / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"diffusion_pytorch_model\.safetensors"):
        pretrained_backbone(str(folder))


def test_settings_that_do_not_fit_the_weights(folder: Path):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "joint_attention_dim": 20}))
    with pytest.raises(InputError, match=r"context_embedder.weight"):
        pretrained_backbone(str(folder))


@pytest.mark.parametrize(("key", "value"), [("num_layers", "two"), ("num_attention_heads", None), ("in_channels", -4)])
def test_settings_that_make_no_model(folder: Path, key: str, value: object):
    """Such a config is the user's file, so it is named."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(InputError, match=r"config.json|safetensors"):
        pretrained_backbone(str(folder))
