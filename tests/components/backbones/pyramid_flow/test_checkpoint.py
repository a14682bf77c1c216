"""Transformers in folders of the public layout: round trips, and what is said about damaged folders."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import nn

from components.backbones.pyramid_flow.checkpoint import Variant, pretrained_backbone
from components.backbones.pyramid_flow.column import Column
from components.backbones.pyramid_flow.miniflux import MiniFluxTransformer
from components.errors import InputError
from components.weights.identity import Identity, identity_of, sha256_of
from tests.tiny_syncphony import VARIANTS, latents, text_features, tiny_backbone

WEIGHTS = "diffusion_pytorch_model.safetensors"


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


# --- other layouts ---------------------------------------------------------------------------------------------------


def same_weights(model: nn.Module, other: nn.Module) -> bool:
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items())


def as_pickle(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """The weights as the SD3 release had them at first."""
    (folder / WEIGHTS).unlink()
    torch.save(weights, folder / "diffusion_pytorch_model.bin")


def test_pickled_weights(folder: Path):
    before = tiny_backbone(folder.name)
    as_pickle(folder, before.state_dict())
    assert same_weights(pretrained_backbone(str(folder)), before)


def test_weights_in_several_files(folder: Path):
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    places = {key: f"part-{i % 3}.safetensors" for i, key in enumerate(weights)}
    for part in set(places.values()):
        save_file({key: value for key, value in weights.items() if places[key] == part}, folder / part)
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert same_weights(pretrained_backbone(str(folder)), tiny_backbone(folder.name))


def test_subfolder_and_identity(folder: Path):
    model = pretrained_backbone(str(folder.parent), folder.name)
    assert identity_of(model) == Identity(str(folder), sha256_of(folder / WEIGHTS))


def test_a_hub_repository_that_was_downloaded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cached = tmp_path / "hub" / "models--rain1011--pyramid-flow-sd3"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("c" * 40)
    shutil.copytree(folder, cached / "snapshots" / ("c" * 40) / "diffusion_transformer_384p")
    model = pretrained_backbone("rain1011/pyramid-flow-sd3", "diffusion_transformer_384p")
    assert same_weights(model, tiny_backbone(folder.name))
    assert identity_of(model).name == "rain1011/pyramid-flow-sd3/diffusion_transformer_384p"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype(folder: Path, dtype: str):
    for stored in (torch.float32, torch.bfloat16):
        tiny_backbone(folder.name).save_pretrained(folder, stored)
        wanted = getattr(torch, dtype)
        assert {p.dtype for p in pretrained_backbone(str(folder), dtype=dtype).parameters()} == {wanted}
        assert {p.dtype for p in pretrained_backbone(str(folder), dtype=None).parameters()} == {stored}
    with pytest.raises(InputError, match="dtype is 'int4'"):
        pretrained_backbone(str(folder), dtype="int4")


def test_saving_over_the_files_that_are_mapped(folder: Path):
    before = tiny_backbone(folder.name)
    as_pickle(folder, before.state_dict())
    model = pretrained_backbone(str(folder))
    for _ in range(2):  # from the pickle, then over the file the model now comes from
        model.save_pretrained(folder)
        model = pretrained_backbone(str(folder))
        assert same_weights(model, before)
    with torch.no_grad():
        model.proj_out.weight.add_(1.0)
    model.save_pretrained(folder)
    assert same_weights(pretrained_backbone(str(folder)), model)
    assert not same_weights(model, before)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "dit."])
def test_other_spellings_of_keys(folder: Path, prefix: str):
    """Text norms as the other release spells them, and what wrappers put in front."""
    before = tiny_backbone(folder.name)
    swap = {".norm_added_": ".norm_add_"} if folder.name == "miniflux" else {".norm_add_": ".norm_added_"}
    ((ours, theirs),) = swap.items()
    found = {prefix + key.replace(ours, theirs): value for key, value in before.state_dict().items()}
    assert not any(ours in key for key in found) and any(theirs in key for key in found)
    save_file(found, folder / WEIGHTS)
    assert same_weights(pretrained_backbone(str(folder)), before)


def test_the_reference_pipeline_overrules_what_diffusers_wrote(folder: Path):
    """A release's file may hold the code's defaults of the day; the models run causally, with stretched history."""
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), "use_temporal_causal": False, "interp_condition_pos": False}
    file.write_text(json.dumps(config))
    ours = pretrained_backbone(str(folder))
    assert (ours.config["use_temporal_causal"], ours.config["interp_condition_pos"]) == (False, False)
    file.write_text(json.dumps({**config, "_diffusers_version": "0.30.3"}))
    theirs = pretrained_backbone(str(folder))
    assert (theirs.config["use_temporal_causal"], theirs.config["interp_condition_pos"]) == (True, True)


# --- the wrong folder ------------------------------------------------------------------------------------------------


def test_the_variant_an_experiment_expects(folder: Path):
    right, wrong = ("miniflux", "sd3") if folder.name == "miniflux" else ("sd3", "miniflux")
    assert same_weights(pretrained_backbone(str(folder), variant=right), tiny_backbone(folder.name))
    with pytest.raises(InputError, match=rf"describes the {right} variant \(Pyramid\w+\), but variant is '{wrong}'"):
        pretrained_backbone(str(folder), variant=wrong)
    with pytest.raises(InputError, match="variant is 'flux'; give miniflux or sd3"):
        pretrained_backbone(str(folder), variant="flux")


def test_the_folder_of_a_vae_or_of_anything_else(folder: Path):
    file = folder / "config.json"
    file.write_text(json.dumps({"_class_name": "CausalVideoVAE", "encoder_in_channels": 3}))
    with pytest.raises(InputError, match=r"'CausalVideoVAE': expected .* such as diffusion_transformer_384p"):
        pretrained_backbone(str(folder))
    file.write_text(json.dumps({"architectures": ["T5EncoderModel"], "d_model": 4096}))
    with pytest.raises(InputError, match=r"config\.json describes no Pyramid Flow transformer"):
        pretrained_backbone(str(folder))


@pytest.mark.parametrize(
    ("key", "value", "truth"),
    [
        ("num_layers", 4, {"miniflux": 2, "mmdit": 3}),
        ("num_attention_heads", 4, 2),
        ("joint_attention_dim", 20, 12),
        ("pooled_projection_dim", 20, 10),
        ("in_channels", 32, {"miniflux": 16, "mmdit": 4}),
    ],
)
def test_a_config_that_contradicts_the_weights_is_corrected(folder: Path, key: str, value: int, truth: object):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    right = truth[folder.name] if isinstance(truth, dict) else truth
    with pytest.raises(InputError, match=rf": {key} is {value} in config\.json but {right} in the weights; "):
        pretrained_backbone(str(folder))


# --- shapes only -----------------------------------------------------------------------------------------------------


def test_shapes_of_a_folder_need_no_weights(folder: Path):
    (folder / WEIGHTS).unlink()
    with torch.device("meta"):
        model = pretrained_backbone(str(folder), dtype="bfloat16")
    assert all(p.is_meta and p.dtype == torch.bfloat16 for p in model.parameters())
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in tiny_backbone(folder.name).state_dict().items()}


@pytest.mark.parametrize(
    ("release", "subfolder", "variant", "million"),
    [
        ("rain1011/pyramid-flow-miniflux", "diffusion_transformer_384p", "miniflux", 1972.0592),
        ("rain1011/pyramid-flow-miniflux", "diffusion_transformer_768p", "miniflux", 1972.0592),
        ("rain1011/pyramid-flow-miniflux", "diffusion_transformer_image", "miniflux", 1972.0592),
        ("rain1011/pyramid-flow-sd3", "diffusion_transformer_384p", "sd3", 2028.334144),
        ("rain1011/pyramid-flow-sd3", "diffusion_transformer_768p", "sd3", 2028.334144),
    ],
)
def test_public_checkpoints_are_known_by_name(release: str, subfolder: str, variant: Variant, million: float):
    with torch.device("meta"):
        model = pretrained_backbone(release, subfolder, variant=variant)
    assert all(value.is_meta for value in model.state_dict().values())
    assert sum(p.numel() for p in model.parameters()) == round(million * 1e6)


def test_other_names_are_not_guessed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with torch.device("meta"):
        with pytest.raises(InputError, match="diffusion_transformer_4k' was not found"):
            pretrained_backbone("rain1011/pyramid-flow-sd3", "diffusion_transformer_4k")
        with pytest.raises(InputError, match="names the class 'CausalVideoVAE'"):
            pretrained_backbone("rain1011/pyramid-flow-sd3", "causal_video_vae")
