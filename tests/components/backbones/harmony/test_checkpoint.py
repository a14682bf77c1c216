"""A dual tower goes into a folder and comes out the same: whole, or its trained part beside the frozen one."""

import json
from pathlib import Path

import pytest
import torch

from components.backbones.harmony.checkpoint import harmony_audio_tower, load_harmony, save_harmony, tower_weights
from components.backbones.harmony.frame_band import BandConfig
from components.backbones.harmony.model import HarmonyTransformer
from components.backbones.wan.checkpoint import wan_tower
from components.errors import InputError
from components.weights.identity import identity_of
from components.weights.whole_folder import whole_folder
from tests.tiny_harmony import audio_tower, inputs, tiny_interaction, video_tower
from tests.tiny_syncphony import randomise


def model(video=None) -> HarmonyTransformer:
    interaction = tiny_interaction(band=BandConfig(None, "gather", "tower"), style_kv="own")
    built = HarmonyTransformer(video or video_tower(), audio_tower(stem="conv"), interaction, "causal")
    if video is None:
        randomise(built)
    return built


def assert_same(one: HarmonyTransformer, other: HarmonyTransformer) -> None:
    """All weights bit for bit; outputs as far as mapped memory, which need not be aligned, lets kernels agree."""
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    for mine, golden in zip(outputs(one), outputs(other), strict=True):
        torch.testing.assert_close(mine, golden, atol=1e-5, rtol=1e-5)


def outputs(harmony: HarmonyTransformer) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return harmony(**inputs())


def written(harmony: HarmonyTransformer, folder: Path, **how) -> Path:
    with whole_folder(folder) as partial:
        save_harmony(harmony, partial, **how)
    return folder


def test_a_whole_model_comes_back_with_its_settings(tmp_path: Path):
    original = model()
    folder = written(original, tmp_path / "whole")
    loaded = load_harmony(str(folder))
    assert loaded.interaction_config == original.interaction_config
    assert loaded.time_map == original.time_map == "causal"
    assert_same(loaded, original)
    with torch.device("meta"):
        assert all(p.is_meta for p in load_harmony(str(folder)).parameters())
    halves = load_harmony(str(written(original, tmp_path / "half", dtype=torch.bfloat16)), dtype=None)
    assert {p.dtype for p in halves.parameters()} == {torch.bfloat16}


def test_folders_of_earlier_versions_hold_rates_that_are_passed_over(tmp_path: Path):
    """Their ``clock`` keeps the map of times; frame rate, temporal factor and audio rate come from clips and codecs."""
    folder = written(model(), tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    rates = {"video_fps": 25.0, "temporal_factor": 4, "audio_rate_hz": 31.25}
    for time_map in ("causal", "linear"):
        before = {key: value for key, value in config.items() if key != "time_map"}
        before["clock"] = rates | {"time_map": time_map}
        (folder / "config.json").write_text(json.dumps(before))
        assert load_harmony(str(folder)).time_map == time_map


def frozen_video_folder(folder: Path, seed: int) -> Path:
    from diffusers import WanTransformer3DModel

    tower = video_tower(seed)
    stock = WanTransformer3DModel(**{key: value for key, value in tower.config.items() if key != "text_len"})
    stock.load_state_dict(tower.state_dict())
    stock.save_pretrained(folder)
    return folder


def test_the_trained_part_comes_back_beside_the_frozen_tower(tmp_path: Path):
    release = str(frozen_video_folder(tmp_path / "wan", seed=0))
    original = model(wan_tower(release, text_len=8))
    for name, parameter in original.named_parameters():
        parameter.requires_grad_(not name.startswith("video.") and "video_block" not in name)
    folder = written(original, tmp_path / "trained", only_trained=True)
    config = json.loads((folder / "config.json").read_text())
    assert len(config["left_out"]) == len(video_tower().state_dict())
    assert config["left_out_from"] == {"video": identity_of(wan_tower(release)).sha256}

    loaded = load_harmony(str(folder), video=wan_tower(release, text_len=8))
    assert_same(loaded, original)
    with pytest.raises(InputError, match="only what was trained: give the video tower"):
        load_harmony(str(folder))
    other = str(frozen_video_folder(tmp_path / "other", seed=9))
    with pytest.raises(InputError, match="give the same weights"):
        load_harmony(str(folder), video=wan_tower(other, text_len=8))


def test_stages_hand_on_the_audio_tower(tmp_path: Path):
    alone = HarmonyTransformer(audio=audio_tower())
    randomise(alone)
    folder = written(alone, tmp_path / "stage1")
    joint = HarmonyTransformer(video_tower(), harmony_audio_tower(str(folder)), tiny_interaction())
    given = inputs()
    with torch.no_grad():
        for mine, golden in zip(joint(**given, active=["audio"]), alone(**given, active=["audio"]), strict=True):
            assert mine is golden is None or torch.allclose(mine, golden, atol=1e-5)
    with pytest.raises(InputError, match="has no video tower"):
        load_harmony(str(folder), video=video_tower())
    silent = written(HarmonyTransformer(video=video_tower()), tmp_path / "silent")
    with pytest.raises(InputError, match="has no audio tower"):
        harmony_audio_tower(str(silent))


def test_a_tower_taken_out_is_a_wan_transformer():
    from diffusers import WanTransformer3DModel

    tower = video_tower()
    stock = WanTransformer3DModel(**{key: value for key, value in tower.config.items() if key != "text_len"})
    stock.load_state_dict(tower_weights(HarmonyTransformer(tower, audio_tower()).state_dict(), "video"), strict=True)


def test_folders_of_other_things_are_refused(tmp_path: Path):
    release = frozen_video_folder(tmp_path / "wan", seed=0)
    with pytest.raises(InputError, match="names the class 'WanTransformer3DModel', not 'HarmonyTransformer'"):
        load_harmony(str(release))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "HarmonyTransformer", "video": None}))
    with pytest.raises(InputError, match="lacks audio, interaction, left_out, left_out_from, time_map; export"):
        load_harmony(str(tmp_path))
