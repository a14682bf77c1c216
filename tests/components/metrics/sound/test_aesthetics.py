"""Audiobox Aesthetics: public keys, windows, the listeners' scale. Numbers: tests/golden."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from components.errors import InputError
from components.metrics.sound.aesthetics import AudioboxAesthetics
from components.metrics.sound.aesthetics_net import AXES, RENAMES, AestheticsNet
from components.weights.fit import respelled
from tests.components.metrics.generations import noise, sounding, tone

WAVLM = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
SCALE = {axis: {"mean": 5.0 + place, "std": 1.0 + place / 2} for place, axis in enumerate(AXES)}


def write_aesthetics(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A tiny network, saved as the public one is."""
    torch.manual_seed(seed)
    net = AestheticsNet(wavlm=WAVLM)
    for head in net.proj_layer.values():
        torch.nn.init.normal_(head[-1].weight)
    folder.mkdir(exist_ok=True)
    save_file(net.state_dict(), folder / "model.safetensors")
    config = {"proj_num_layer": 1, "normalize_embed": True, "target_transform": SCALE, "wavlm": WAVLM, **changes}
    (folder / "config.json").write_text(json.dumps({name: v for name, v in config.items() if v is not None}))
    return folder


@pytest.fixture(scope="module")
def scorer(tmp_path_factory) -> AudioboxAesthetics:
    return AudioboxAesthetics(str(write_aesthetics(tmp_path_factory.mktemp("aesthetics"))))


def public_keys() -> set[str]:
    """What the published class has: fairseq's WavLM-base, four heads, four sets of layer weights."""
    linear = ("weight", "bias")
    keys = {"mask_emb", "feature_extractor.conv_layers.0.2.weight", "feature_extractor.conv_layers.0.2.bias"}
    keys |= {f"feature_extractor.conv_layers.{layer}.0.weight" for layer in range(7)}
    keys |= {f"{name}.{kind}" for name in ("post_extract_proj", "layer_norm", "encoder.layer_norm") for kind in linear}
    keys |= {f"encoder.pos_conv.0.{kind}" for kind in ("bias", "weight_g", "weight_v")}
    for layer in range(12):
        parts = [f"self_attn.{part}" for part in ("k_proj", "v_proj", "q_proj", "out_proj", "grep_linear")]
        parts += ["self_attn_layer_norm", "fc1", "fc2", "final_layer_norm"]
        keys |= {f"encoder.layers.{layer}.{part}.{kind}" for part in parts for kind in linear}
        keys.add(f"encoder.layers.{layer}.self_attn.grep_a")
    keys.add("encoder.layers.0.self_attn.relative_attention_bias.weight")
    heads = {f"proj_layer.{axis}.0.{kind}" for axis in AXES for kind in linear}
    return {f"wavlm_model.{key}" for key in keys} | heads | {f"layer_weights.{axis}" for axis in AXES}


def test_public_keys_become_ours():
    with torch.device("meta"):
        net = AudioboxAesthetics().net
    ours = net.state_dict()
    assert set(respelled(public_keys(), ours, RENAMES).values()) == set(ours)
    assert sum(value.numel() for value in ours.values()) / 1e6 == pytest.approx(94.4, abs=0.1)


def test_windows_of_ten_seconds_count_as_long_as_they_are(scorer: AudioboxAesthetics):
    sound = noise(14.0, 16000)
    whole, first, rest = (
        scorer.score(sounding(part[None], 16000), [0])[0].values for part in (sound, sound[:160000], sound[160000:])
    )
    assert set(whole) == set(scorer.higher_is_better) == {"pq", "pc", "ce", "cu"}
    for axis, value in whole.items():
        assert value == pytest.approx((10 * first[axis] + 4 * rest[axis]) / 14, abs=1e-4)
    assert not scorer.higher_is_better["pc"] and scorer.higher_is_better["pq"]


def test_only_the_sound_itself_is_judged(scorer: AudioboxAesthetics):
    sounds = torch.stack([tone(300, 2.0, 16000), noise(2.0, 16000)])
    together = scorer.score(sounding(sounds, 16000), [0, 1])
    alone = scorer.score(sounding(sounds[1:], 16000), [0])
    assert together[1] == alone[0] and together[0] != together[1]
    at_48k = scorer.score(sounding(tone(300, 2.0, 48000)[None], 48000), [0])[0].values
    assert at_48k == pytest.approx(dict(together[0].values), abs=0.05)


def test_no_sound_at_all_has_none(scorer: AudioboxAesthetics):
    (scores,) = scorer.score(sounding(torch.zeros(1, 0), 16000), [0])
    assert scores.problem == "no_sound" and not scores.values


def test_values_have_the_listeners_scale(tmp_path: Path):
    zero = {axis: {"mean": 0.0, "std": 1.0} for axis in AXES}
    raw = AudioboxAesthetics(str(write_aesthetics(tmp_path / "raw", target_transform=zero)))
    scaled = AudioboxAesthetics(str(write_aesthetics(tmp_path / "scaled")))
    generation = sounding(noise(1.0, 16000)[None], 16000)
    (before,), (after,) = raw.score(generation, [0]), scaled.score(generation, [0])
    for axis in AXES:
        wanted = before.values[axis.lower()] * SCALE[axis]["std"] + SCALE[axis]["mean"]
        assert after.values[axis.lower()] == pytest.approx(wanted, abs=1e-5)
    assert raw.identity() != scaled.identity()


def test_refusals(tmp_path: Path):
    with pytest.raises(InputError, match="no target_transform with mean and std of CE, CU, PC, PQ"):
        AudioboxAesthetics(str(write_aesthetics(tmp_path / "a", target_transform=None)))
    with pytest.raises(InputError, match="use_weighted_layer_sum is False"):
        AudioboxAesthetics(str(write_aesthetics(tmp_path / "b", use_weighted_layer_sum=False)))
    with pytest.raises(InputError, match="does not fit this AestheticsNet"):
        AudioboxAesthetics(str(write_aesthetics(tmp_path / "c", proj_num_layer=2)))
