"""Towers out of files in every public form, on tiny weights: names, settings, precision, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from components.backbones.harmony import audio_tower_from_wan, ovi_audio_tower
from components.backbones.harmony.audio_tower import AudioTower
from components.backbones.wan.checkpoint import RENAMES, diffusers_key, wan_tower
from components.backbones.wan.model import WanTower
from components.errors import InputError
from components.weights.identity import identity_of, sha256_of
from tests.tiny_harmony import AUDIO_CHANNELS, TEXT_DIM, TRANSCRIPT_DIM, audio_tower, video_tower

HEAD_DIM = 24


def original_key(key: str) -> str:
    """Back to the spelling of the original release."""
    for theirs, ours in reversed(RENAMES):
        if theirs not in (".modulation.modulation", ".modulation", "head.modulation"):
            key = key.replace(ours, theirs)
    if key == "scale_shift_table":
        return "head.modulation"
    return key.replace(".scale_shift_table", ".modulation")


@pytest.fixture
def tower() -> WanTower:
    return video_tower(seed=4)


@pytest.fixture
def stock_folder(tower: WanTower, tmp_path: Path) -> Path:
    """Written by diffusers itself, in two shards with an index."""
    from diffusers import WanTransformer3DModel

    config = {key: value for key, value in tower.config.items() if key != "text_len"}
    model = WanTransformer3DModel(**config)
    model.load_state_dict(tower.state_dict())
    folder = tmp_path / "release" / "transformer"
    model.save_pretrained(folder, max_shard_size="400KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def write_original(tower: WanTower, folder: Path, prefix: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "diffusion_pytorch_model.safetensors"
    save_file({prefix + original_key(k): v.contiguous() for k, v in tower.state_dict().items()}, file)
    return file


def test_a_diffusers_folder(tower: WanTower, stock_folder: Path):
    loaded = wan_tower(str(stock_folder.parent), "transformer", text_len=8)
    assert same(loaded, tower)
    assert loaded.config == tower.config
    assert identity_of(loaded).name.endswith("release/transformer")


@pytest.mark.filterwarnings("ignore:.*torch_dtype")
def test_half_precision_spares_what_diffusers_spares(stock_folder: Path):
    from diffusers import WanTransformer3DModel

    theirs = WanTransformer3DModel.from_pretrained(stock_folder, torch_dtype=torch.bfloat16)
    ours = wan_tower(str(stock_folder), dtype="bfloat16", text_len=8)
    assert {p.dtype for p in ours.parameters()} == {torch.bfloat16, torch.float32}
    assert same(ours, theirs)
    assert {k: v.dtype for k, v in ours.state_dict().items()} == {k: v.dtype for k, v in theirs.state_dict().items()}
    with torch.device("meta"):
        shapes = wan_tower(str(stock_folder), dtype="bfloat16", text_len=8)
    assert {k: v.dtype for k, v in shapes.named_parameters()} == {k: v.dtype for k, v in ours.named_parameters()}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_one_file_in_the_original_spelling(tower: WanTower, tmp_path: Path, prefix: str):
    file = write_original(tower, tmp_path, prefix)
    loaded = wan_tower(str(file), text_len=8, head_dim=HEAD_DIM)
    assert same(loaded, tower)
    assert {k: list(v) if k == "patch_size" else v for k, v in loaded.config.items()} == tower.config
    assert identity_of(loaded).sha256 == sha256_of(file)
    with torch.device("meta"):
        shapes = wan_tower(str(file), head_dim=HEAD_DIM)
    assert all(p.is_meta for p in shapes.parameters())


def test_a_folder_in_the_original_form(tower: WanTower, tmp_path: Path):
    write_original(tower, tmp_path)
    config = {
        "_class_name": "WanModel",
        "model_type": "ti2v",
        "dim": 48,
        "num_heads": 2,
        "num_layers": 3,
        "ffn_dim": 96,
        "in_dim": 8,
        "out_dim": 8,
        "freq_dim": 32,
        "text_dim": TEXT_DIM,
        "text_len": 512,
        "eps": 1e-6,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert same(wan_tower(str(tmp_path), text_len=8), tower)
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "s2v"}))
    with pytest.raises(InputError, match="model_type 's2v'"):
        wan_tower(str(tmp_path))
    del config["num_heads"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"lacks a setting.*num_heads"):
        wan_tower(str(tmp_path))


def test_renames_leave_diffusers_names_alone():
    names = video_tower().state_dict().keys()
    assert {diffusers_key(name) for name in names} == set(names)
    assert {diffusers_key(original_key(name)) for name in names} == set(names)
    assert not {original_key(name) for name in names if "norm_q" not in name} & {n for n in names if "blocks" in n}


def test_the_public_model_is_known_without_its_files():
    with torch.device("meta"):
        tower = wan_tower("Wan-AI/Wan2.2-TI2V-5B-Diffusers", "transformer")
        twin = audio_tower_from_wan("Wan-AI/Wan2.2-TI2V-5B-Diffusers", "transformer")
    assert sum(p.numel() for p in tower.parameters()) == 4_999_787_712
    assert twin.dim == tower.dim == 3072


def write_ovi(tower: AudioTower, file: Path, whole_model: bool) -> Path:
    """In Ovi's names; the whole model has a video tower and fusion layers beside."""
    tensors = {}
    for key, value in tower.state_dict().items():
        if key.startswith(("null_reference", "reference_segment", "transcript")):
            continue
        key = original_key(key)
        if key.startswith("blocks.") and key.endswith(".modulation"):
            key += ".modulation"
        tensors[("audio_model." if whole_model else "") + key] = value.contiguous()
    if whole_model:
        for layer in ("k_fusion", "v_fusion", "pre_attn_norm_fusion", "norm_k_fusion"):
            tensors[f"audio_model.blocks.0.cross_attn.{layer}.weight"] = torch.ones(2)
        tensors["video_model.patch_embedding.weight"] = torch.ones(3)
    save_file(tensors, file)
    return file


@pytest.mark.parametrize("whole_model", [False, True])
def test_ovis_audio_tower(tmp_path: Path, whole_model: bool):
    original = audio_tower(stem="conv")
    file = write_ovi(original, tmp_path / "model.safetensors", whole_model)
    loaded = ovi_audio_tower(str(file), TRANSCRIPT_DIM, rope_scale=0.19676, text_len=8, head_dim=12)
    mine, golden = loaded.state_dict(), original.state_dict()
    assert mine.keys() == golden.keys()
    fresh = {key for key in golden if not torch.equal(mine[key], golden[key])}
    assert fresh
    assert all(key.startswith(("null_reference", "transcript_embedder")) for key in fresh)
    assert loaded.config == {**original.config, "rope_scale": 0.19676}
    with torch.device("meta"):
        assert ovi_audio_tower(str(file), TRANSCRIPT_DIM, head_dim=12).null_reference.is_meta


def test_an_audio_tower_copied_from_wan(tower: WanTower, stock_folder: Path):
    loaded = audio_tower_from_wan(str(stock_folder), channels=AUDIO_CHANNELS, transcript_dim=5, text_len=8)
    mine, golden = loaded.state_dict(), tower.state_dict()
    copied = {key for key in mine if key in golden and mine[key].shape == golden[key].shape}
    assert {key for key in copied if torch.equal(mine[key], golden[key])} == copied - {
        "scale_shift_table",
        "patch_embedding.bias",
    }
    assert {key.partition(".")[0] for key in mine.keys() - copied} == {
        "patch_embedding",
        "proj_out",
        "null_reference",
        "reference_segment",
        "transcript_type",
        "transcript_embedder",
    }
    assert not any(p.is_meta for p in loaded.parameters())


def test_what_does_not_fit_is_refused_in_one_sentence(tower: WanTower, stock_folder: Path, tmp_path: Path):
    config = json.loads((stock_folder / "config.json").read_text())

    def refused(changes: dict, pattern: str) -> None:
        (stock_folder / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(InputError, match=pattern):
            wan_tower(str(stock_folder))

    refused({"ffn_dim": 80}, "ffn_dim is 80 in config.json but 96 in the weights")
    refused({"num_layers": 4}, "num_layers is 4 in config.json but 3")
    refused({"image_dim": 1280}, "image_dim 1280.*Wan 2.2 release")
    refused({"_class_name": "PyramidFluxTransformer"}, "PyramidFluxTransformer")
    refused({"patch_size": [2, 2, 2]}, "timesteps are per frame")
    (stock_folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json does not exist"):
        wan_tower(str(stock_folder))

    unrelated = tmp_path / "unrelated.safetensors"
    save_file({"some.weight": torch.ones(2)}, unrelated)
    for load in (wan_tower, ovi_audio_tower):
        with pytest.raises(InputError, match=r"holds no Wan transformer \(its first key is 'some.weight'"):
            load(str(unrelated))
    file = write_original(tower, tmp_path / "odd")
    with pytest.raises(InputError, match=r"width of 48.*heads of 128"):
        wan_tower(str(file))
    with pytest.raises(InputError, match="dtype is 'float8'"):
        wan_tower(str(file), dtype="float8")
